"""URLs of databases, brokers and stores: whether they are local, and texts with their secrets hidden.

gradq/client/masking.py has the same for the client, which imports nothing of `shared`; a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import parse_qs, quote, unquote, urlsplit

from shared.loopback import is_loopback_address

SOCKETS = ("redis+socket", "unix", "socket")
HIDDEN = "***"
# up to the last @ before the path, since a password may contain an unencoded one; with a colon but no @ there, the
# password may contain an unencoded / ? or #
AUTHORITY = re.compile(r"(?<=://)(?:[^/?#]*@|[^/?#@]*:[^@]*[/?#].*@)", re.DOTALL)
SECRET_PARAMETER = re.compile(r"(?i)([?&;][^=&;]*(?:pass|secret|token|key)[^=&;]*=)([^&;#]*)")
SHORTEST_SECRET = 2  # characters; a single one is in every text
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")


def without_secrets(url: str) -> str:
    """The URL with passwords and keys replaced by `***`, both before the host and in the query parameters."""
    shown = AUTHORITY.sub(lambda match: _user_alone(match[0]), url, count=1) if "@" in url else url
    return SECRET_PARAMETER.sub(rf"\g<1>{HIDDEN}", shown)


def secrets_of(url: str) -> set[str]:
    """The passwords and keys in the URL, in each spelling that a library may show."""
    found = {value for _, value in SECRET_PARAMETER.findall(url)}
    if "@" in url and (match := AUTHORITY.search(url)) is not None:
        user, colon, password = match[0].removesuffix("@").partition(":")
        found.add(password if colon else user)
    spellings = {spelling for text in found for spelling in (text, unquote(text), quote(unquote(text), safe=""))}
    return {spelling for spelling in spellings if len(spelling) >= SHORTEST_SECRET}


def masked(text: str, secrets: Iterable[str] = ()) -> str:
    """A text, such as a library's error, with the known secrets and those of all URLs in it replaced by `***`."""
    text = URL.sub(lambda match: without_secrets(match[0]), text)
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


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
