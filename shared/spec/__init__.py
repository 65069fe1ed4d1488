"""What a job may ask for: the spec, presets, and the estimate of its cost."""
