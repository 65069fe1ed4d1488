"""Benchmarks of gradq and of comparable tools. The service imports nothing from here."""
