"""What the environment or a caller sets, checked before the first request: address, token, proxy, certificates."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Self
from urllib.request import getproxies, proxy_bypass

import httpx2

from gradq.client.masking import secrets_of, without_secrets
from gradq.client.problems import InvalidSetting

DEFAULT_URL = "http://127.0.0.1:8080"
PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
LARGEST_PORT = 65_535
HOST_NAME = re.compile(r"[A-Za-z0-9._-]*")


# --- address and token ------------------------------------------------------------------------------------------------


def address(url: str | None) -> str:
    """The service's address: `url`, else GRADQ_URL, else DEFAULT_URL. Raises InvalidSetting unless it is HTTP."""
    found = (url or os.environ.get("GRADQ_URL") or DEFAULT_URL).strip().rstrip("/")
    try:
        parts = httpx2.URL(found)
        _require_host(parts.host)
    except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
        raise InvalidSetting(f"{_shown(found)} is not an address: {_why(found, error)}", found) from error
    if parts.scheme not in ("http", "https") or not parts.host:
        raise InvalidSetting(f"{_shown(found)} is not an address; one looks like {DEFAULT_URL}", found)
    if not _is_port(parts.port):
        raise InvalidSetting(f"{_shown(found)} is not an address: ports end at {LARGEST_PORT} and begin at 1", found)
    if parts.query or parts.fragment:
        raise InvalidSetting(f"{_shown(found)} is not an address: it must end before `?` and `#`", found)
    return found


def _require_host(host: str) -> None:
    """Raises ValueError for a name that no host can have, at which the system's look-up fails."""
    try:
        name = host.encode("idna").decode()
    except UnicodeError as error:
        raise ValueError("a part of the host name, between its dots, is empty or has more than 63 letters") from error
    if ":" not in name and not HOST_NAME.fullmatch(name):  # a colon: IPv6
        raise ValueError("a host name has letters, digits, dots and hyphens alone")


def _is_port(port: int | None) -> bool:
    return port is None or 1 <= port <= LARGEST_PORT


def bearer(token: str | None, url: str) -> str | None:
    """The value of the Authorization header for `token`, by default GRADQ_TOKEN; None without one, or for an empty one.

    Raises InvalidSetting, without the token itself, for characters that a header cannot hold.
    """
    given = os.environ.get("GRADQ_TOKEN", "") if token is None else token
    found = given.strip()  # a token read from a file ends with a newline
    if not found:
        return None
    scheme, space, rest = found.partition(" ")
    if space and rest and scheme.lower() == "bearer":
        raise InvalidSetting("the token begins with 'Bearer'; give the token alone (GRADQ_TOKEN, --token)", url)
    wrong = next((place for place, letter in enumerate(found, 1) if not "!" <= letter <= "~"), None)
    if wrong is not None:
        what = "a space or line break" if found[wrong - 1].isspace() else "not an ASCII letter, digit or sign"
        raise InvalidSetting(
            f"the token (GRADQ_TOKEN, --token) cannot be sent: its character {wrong} is {what}; "
            "copy it again from `gradq token create`",
            url,
        )
    return f"Bearer {found}"


def _shown(url: str) -> str:
    text = without_secrets(url)
    return ascii(text) if not text.isprintable() else text


def _why(url: str, error: Exception) -> str:
    """The library's reason. It may show parts of a password, which is why the URL could not be parsed."""
    if secrets_of(url):
        return "the signs @ : / ? # % in a user or password must be percent-encoded"
    return str(error)


# --- proxy ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Proxy:
    """The proxy that requests to one address go through. `variable`: where the environment names it."""

    url: str
    variable: str

    def __str__(self) -> str:
        """`http://proxy:3128 (HTTP_PROXY)`, with a password hidden."""
        return f"{without_secrets(str(httpx2.URL(self.url))).rstrip('/')} ({self.variable})"


def proxy_of(url: str) -> Proxy | None:
    """The environment's proxy for `url`; None for addresses of this machine and of NO_PROXY, which are asked directly.

    Raises InvalidSetting if the proxy cannot be used.
    """
    parts = httpx2.URL(url)
    known = getproxies()  # on macOS and Windows also of the system's settings
    kind = next((kind for kind in (parts.scheme, "all") if known.get(kind)), None)
    if kind is None or is_this_machine(parts.host) or _is_excepted(parts.host, parts.port, known.get("no", "")):
        return None
    text = known[kind] if "://" in known[kind] else f"http://{known[kind]}"
    proxy = Proxy(text, _variable(kind))
    if (why := _why_unusable(text)) is not None:
        raise InvalidSetting(f"the proxy in {proxy.variable} cannot be used: {why}", url)
    return proxy


def is_this_machine(host: str) -> bool:
    """Whether a host is a loopback address, in any spelling, or `localhost`: no proxy can reach the service there."""
    name = host.lower().strip("[]").rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    with suppress(ValueError):
        found = ipaddress.ip_address(name.partition("%")[0])
        mapped = getattr(found, "ipv4_mapped", None) or found
        return bool(mapped.is_loopback or mapped.is_unspecified)
    with suppress(OSError, ValueError):  # 127.1 and 0x7f000001 are spellings of 127.0.0.1
        return ipaddress.IPv4Address(socket.inet_aton(name)).is_loopback
    return False


def _is_excepted(host: str, port: int | None, exceptions: str) -> bool:
    """Whether NO_PROXY names the host: `*`, a name or domain, an address, a network such as 10.0.0.0/8."""
    if not exceptions:
        return bool(proxy_bypass(host))  # the exceptions of the system's settings, on macOS and Windows
    entries = (entry.strip().lower() for entry in exceptions.split(","))
    return any(_names(entry, host.lower().strip("[]"), port) for entry in entries if entry)


def _names(entry: str, host: str, port: int | None) -> bool:
    if entry == "*":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    domain = entry.removeprefix("*").lstrip(".")
    name = f"{host}:{port}" if ":" in domain else host
    return bool(domain) and (name == domain or name.endswith(f".{domain}"))


def _variable(kind: str) -> str:
    """The environment variable that `getproxies` took the proxy from; urllib prefers the lower-case one."""
    names = (f"{kind}_proxy", f"{kind}_proxy".upper())
    return next((name for name in names if os.environ.get(name)), "the system's settings")


def _why_unusable(proxy: str) -> str | None:
    try:
        parts = httpx2.URL(proxy)
        if parts.scheme not in PROXY_SCHEMES:
            return f"it must begin with http:// or https://, got {parts.scheme}://"
        if not parts.host or not _is_port(parts.port):
            return "it must be http://host:port"
        _require_host(parts.host)
    except (httpx2.InvalidURL, UnicodeError, ValueError) as error:
        return f"it must be http://host:port ({_why(proxy, error)})"
    if parts.scheme.startswith("socks"):
        return None if find_spec("socksio") else "a SOCKS proxy needs the package socksio: pip install socksio"
    return None


# --- certificates -----------------------------------------------------------------------------------------------------


def certificates(url: str, proxy: Proxy | None) -> ssl.SSLContext | bool:
    """What httpx2 verifies certificates with. Raises InvalidSetting if SSL_CERT_FILE or SSL_CERT_DIR cannot be used.

    False without HTTPS: loading the machine's certificates takes a tenth of a second.
    """
    if not url.startswith("https:") and not (proxy is not None and proxy.url.startswith("https:")):
        return False
    try:
        return httpx2.create_ssl_context()
    except (OSError, ValueError) as error:  # a missing file, or one without certificates
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
        where = f"{names[0]}={os.environ[names[0]]}" if names else "this machine"
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidSetting(f"the certificates of {where} cannot be read: {reason}", url) from error


# --- all of them ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """The service that a client calls, and how. `authorization`: the header's value, or None."""

    url: str
    authorization: str | None
    proxy: Proxy | None
    verify: ssl.SSLContext | bool

    @property
    def secrets(self) -> frozenset[str]:
        """Texts that no error may show: the token, and the passwords in the addresses."""
        known = {self.authorization.removeprefix("Bearer ")} if self.authorization else set()
        proxy = secrets_of(self.proxy.url) if self.proxy is not None else set()
        return frozenset(known | proxy | secrets_of(self.url))

    @classmethod
    def of(cls, url: str | None, token: str | None) -> Self:
        """The target that these arguments and the environment name. Raises InvalidSetting."""
        found = address(url)
        proxy = proxy_of(found)
        return cls(found, bearer(token, found), proxy, certificates(found, proxy))
