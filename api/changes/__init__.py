"""Parts of each change: its idempotency key, its transaction, its audit entry."""
