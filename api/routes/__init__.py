"""The routes, one file per resource: parse, call `shared`, render."""
