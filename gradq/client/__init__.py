"""The library: a blocking and an asynchronous client over the same calls, each call written once (calls.py)."""
