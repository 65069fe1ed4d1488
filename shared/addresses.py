"""URLs of databases, brokers and stores: whether they are local, and their text with secrets hidden."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

from shared.loopback import is_loopback_address

SOCKETS = ("redis+socket", "unix", "socket")
HIDDEN = "***"
AUTHORITY = re.compile(r"(?<=://)[^/?#]*@")  # up to the last @: a password may contain an unencoded one
SECRET_PARAMETER = re.compile(r"(?i)([?&;][^=&;]*(?:pass|secret|token|key)[^=&;]*=)[^&;#]*")


def without_secrets(url: str) -> str:
    """The URL with passwords and keys replaced by `***`, both before the host and in the query parameters."""
    shown = AUTHORITY.sub(lambda match: _user_alone(match[0]), url, count=1)
    return SECRET_PARAMETER.sub(rf"\g<1>{HIDDEN}", shown)


def has_password(url: str) -> bool:
    """Whether the URL has a password, before the host or as a parameter. Raises ValueError if it is malformed."""
    parts = urlsplit(url)
    return bool(parts.password) or bool(parse_qs(parts.query).get("password"))


def check_redis(url: str) -> None:
    """Raises ValueError unless a Redis can have the URL, as redis://host:6379/0 and unix:///run/redis.sock."""
    parts = urlsplit(url)
    if (parts.scheme in SOCKETS and not parts.path) or parts.scheme not in (*SOCKETS, "redis", "rediss"):
        raise ValueError("not of a Redis")
    if parts.scheme not in SOCKETS and not (parts.path.strip("/") or "0").isdecimal():
        raise ValueError("not the number of a database")
    _ = parts.port  # raises for one that is not a number up to 65535


def is_local(url: str) -> bool:
    """Whether the URL names a socket file or a loopback address, which other machines cannot reach.

    Other host names are not resolved: what they resolve to may change. Raises ValueError if the URL is malformed.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme in SOCKETS or host == "localhost" or is_loopback_address(host)


def _user_alone(authority: str) -> str:
    user, colon, _ = authority.removesuffix("@").partition(":")
    return f"{user}:{HIDDEN}@" if colon else f"{HIDDEN}@"  # a lone word may be a key
