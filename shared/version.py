"""The version of gradq, for the service. gradq/version.py holds the same; a test compares the two."""

VERSION = "0.1.0"
