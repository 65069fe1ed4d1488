"""The training core: torch, numpy, shared.spec, shared.events. No Celery, no SQL, no Flask, no Redis."""
