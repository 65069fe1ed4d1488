"""Refuses to listen on an address that other machines can reach before there is a token."""

from __future__ import annotations

import socket
from pathlib import Path

from shared.config import Settings
from shared.errors import ConfigurationError
from shared.loopback import is_loopback_address


def require_a_token(host: str, settings: Settings) -> None:
    """Raises ConfigurationError unless `host` is a loopback address, a token exists, or anonymous access is allowed."""
    if settings.allow_anonymous or _is_loopback(host) or settings.admin_token is not None or _some_token(settings):
        return
    raise ConfigurationError(
        f"--host {host} is not a loopback address, so requests will need a token. There is none yet: create one with "
        "`gradq token create NAME` for the same GRADQ_STATE_DIR and GRADQ_DATABASE_URL, or set GRADQ_ADMIN_TOKEN. To "
        "allow requests without a token, set GRADQ_ALLOW_ANONYMOUS=true."
    )


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None)
    except UnicodeError as error:
        raise ConfigurationError(f"--host {host}: not the name of a host") from error
    except socket.gaierror as error:
        raise ConfigurationError(f"--host {host}: {error.strerror}") from error
    return all(is_loopback_address(str(address[0])) for *_, address in found)


def _some_token(settings: Settings) -> bool:
    from sqlalchemy import inspect  # imported here: half a second that a loopback address does not need
    from sqlalchemy.engine import make_url

    from shared import tokens
    from shared.db.database import Database

    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return False  # opening it would create it
    database = Database(settings.database)
    try:
        with database.read() as session:
            return inspect(session.connection()).has_table("tokens") and tokens.any_good(session)
    finally:
        database.close()
