"""Addresses of databases, brokers and stores: where they lead, and how they are shown without what nobody may read."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

from shared.loopback import is_loopback_address

SOCKETS = ("redis+socket", "unix", "socket")
HIDDEN = "***"
AUTHORITY = re.compile(r"(?<=://)[^/?#]*@")  # up to the last @: a password may hold one that nobody encoded
SECRET_PARAMETER = re.compile(r"(?i)([?&;][^=&;]*(?:pass|secret|token|key)[^=&;]*=)[^&;#]*")


def without_secrets(url: str) -> str:
    """The address with its password hidden, wherever it stands: before the host, or among the parameters."""
    shown = AUTHORITY.sub(lambda match: _user_alone(match[0]), url, count=1)
    return SECRET_PARAMETER.sub(rf"\g<1>{HIDDEN}", shown)


def has_password(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.password) or bool(parse_qs(parts.query).get("password"))


def stays_here(url: str) -> bool:
    """Whether it names a socket file or a loopback address: nobody from outside of this machine gets there."""
    parts = urlsplit(url)
    host = parts.hostname or ""  # what another name stands for may change
    return parts.scheme in SOCKETS or host == "localhost" or is_loopback_address(host)


def _user_alone(authority: str) -> str:
    user, colon, _ = authority.removesuffix("@").partition(":")
    return f"{user}:{HIDDEN}@" if colon else f"{HIDDEN}@"  # a lone word may be a key
