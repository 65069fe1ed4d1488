"""The version of gradq, for client and command line. shared/version.py has the same; a test compares the two."""

VERSION = "0.2.0"
