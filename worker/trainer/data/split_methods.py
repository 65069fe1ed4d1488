"""How the validation split was chosen: a value of a job's result. Imports nothing."""

STRATIFIED = "stratified"  # the same share of each class
RANDOM = "random"  # without regard to classes: versions up to 0.2.0, whose results do not say so
TEST = "test"  # nothing is held out: the test split validates
