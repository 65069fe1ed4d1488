"""The client library: a blocking and an asynchronous client over the same coroutines (calls.py)."""
