"""Which gradq this is, for the service; gradq/version.py says the same, and a test that it does."""

VERSION = "0.1.0"
