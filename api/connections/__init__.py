"""Connections of the server: reading requests without a thread, waiting for slow clients, places for those who wait."""
