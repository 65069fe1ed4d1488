"""The HTTP API: parses requests, calls `shared`, renders responses. Never imports torch."""
