"""Runs jobs. Only worker.trainer imports torch."""
