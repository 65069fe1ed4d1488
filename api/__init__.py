"""HTTP only: parse, call shared, render. Never imports torch."""
