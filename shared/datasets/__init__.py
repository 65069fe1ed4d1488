"""Datasets: facts about the built-in ones, and the store of uploaded ones."""
