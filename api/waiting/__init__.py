"""Requests that wait for news: long polls, streams, and the one thread that watches for all of them."""
