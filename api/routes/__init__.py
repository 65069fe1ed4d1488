"""The routes, one file per resource: parse the request, call `shared`, render the response."""
