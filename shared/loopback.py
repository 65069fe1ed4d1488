"""Whether an IP address or a host name can only refer to this machine."""

from __future__ import annotations

import ipaddress


def is_loopback_address(text: str) -> bool:
    """Whether `text` is a loopback IP address; False if it is not an IP address."""
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return False


def is_loopback_name(text: str) -> bool:
    """Whether a Host header, without its port, names this machine: a loopback address, or `localhost` (RFC 6761)."""
    name = text.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost") or is_loopback_address(name.strip("[]"))
