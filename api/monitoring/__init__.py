"""Metrics for Prometheus: statistics of the service, and request counts of the server processes."""
