"""The training core: depends on torch, numpy, shared.spec and shared.events; not on Celery, SQL, Flask or Redis."""

import os

# Read by OpenMP when torch is loaded, thus set here, before any module below imports it. Threads that wait for each
# other then sleep. By default they spin for milliseconds, and where other processes occupy the cores, a spinning thread
# takes the time that the one it waits for needs: 10 to 40 times as long per step on two cores with four busy processes.
# GNU's OpenMP, which PyTorch's wheels for Linux contain, first spins 5 000 times, some 70 µs, instead of 300 000: on an
# idle machine a job is within 5 % of its default, and on a busy one within 2.3 times one thread (benchmarks/busy.py).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
