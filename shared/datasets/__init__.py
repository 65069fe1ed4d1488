"""Datasets: what is known of the built-in ones, and the store of uploaded ones."""
