"""The one place that says which gradq this is."""

from importlib.metadata import version

VERSION = version("gradq")
