"""Parsing of requests, rendering of values and errors, response headers."""
