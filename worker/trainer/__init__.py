"""The training core: depends on torch, numpy, shared.spec and shared.events; not on Celery, SQL, Flask or Redis."""

import os

# Read by OpenMP when torch is loaded, thus set here, before any module below imports it. Threads then sleep while they
# wait for each other. By default they spin, and where other processes occupy the cores, a spinning thread takes the
# time that the one it waits for needs: 10 to 40 times as long per step on two cores with four busy processes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
