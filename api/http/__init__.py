"""Requests to values, values and errors to answers: parsing, rendering, idempotency, the transaction of a change."""
