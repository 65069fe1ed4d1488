"""The whole service on one machine: what `gradq up` starts, supervises and stops."""
