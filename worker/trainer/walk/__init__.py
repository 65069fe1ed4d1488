"""One batch through a small network and back, stage by stage."""
