"""Jobs as rows: the store, the queue, the log, states, limits, counters, curves."""
