"""The words that api, worker and gradq all speak. Imports none of them, and no torch."""
