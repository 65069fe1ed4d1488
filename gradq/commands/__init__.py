"""The command line: one verb per file, and modules for what verbs share, such as tables, options and errors."""
