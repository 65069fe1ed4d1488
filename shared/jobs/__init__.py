"""Jobs as rows: the job store, the queue, the event log, states, limits, counters and curves."""
