"""The dashboard: HTML pages rendered here and updated by small scripts. docs/dashboard.md describes how."""
