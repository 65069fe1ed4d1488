"""The training core: depends on torch, numpy, shared.spec and shared.events; not on Celery, SQL, Flask or Redis."""
