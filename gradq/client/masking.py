"""Texts with the passwords of URLs hidden, for errors and output of the client and its verbs.

shared/addresses.py has the same for the service; the client imports nothing of `shared`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote, unquote

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


def _user_alone(authority: str) -> str:
    user, colon, _ = authority.removesuffix("@").partition(":")
    return f"{user}:{HIDDEN}@" if colon else f"{HIDDEN}@"  # a lone word may be a key
