"""What each change passes through: its idempotency key, its transaction, its audit entry."""
