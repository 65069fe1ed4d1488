"""The job spec, its presets, and the estimate of a job's cost."""
