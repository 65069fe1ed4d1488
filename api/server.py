"""How gunicorn serves the app: its configuration file, `gunicorn -c python:api.server`."""

from api.request_counts import child_exit, on_exit, on_starting

__all__ = ["child_exit", "on_exit", "on_starting"]
