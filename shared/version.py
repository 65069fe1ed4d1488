"""The version of gradq, for the service. gradq/version.py has the same value; a test compares the two."""

VERSION = "0.2.0"
