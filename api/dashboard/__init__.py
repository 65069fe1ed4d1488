"""The dashboard: pages for people, made here as HTML and kept alive by small scripts. docs/dashboard.md says how."""
