"""How fast gradq is, and what stands beside it. Nothing here is imported by the service."""
