"""Which gradq this is; shared/version.py says the same, and a test that it does."""

VERSION = "0.1.0"
