"""What at least two of api, worker and gradq use. Imports none of them, and no torch."""
