"""One update of the weights: state, optimizers, schedules, and the replay of recorded steps."""
