"""The training core: torch, numpy, shared.spec.job_spec, shared.events. No Celery, no SQL, no Flask, no Redis."""
