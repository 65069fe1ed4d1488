"""The database: engine and sessions, tables, and migrations."""
