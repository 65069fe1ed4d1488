"""What people type and import: the command line and a small HTTP client. Shares only `shared` with api and worker."""

from gradq.client import ApiError, Client, Unreachable

__all__ = ["ApiError", "Client", "Unreachable"]
