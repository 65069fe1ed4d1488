"""The forward and backward pass of one batch through a small network, stage by stage."""
