"""Whether an address or a name can only mean this machine."""

from __future__ import annotations

import ipaddress


def is_loopback_address(text: str) -> bool:
    """Of an IP address; False for what is none."""
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return False


def is_loopback_name(text: str) -> bool:
    """Of what a browser may put into a Host header, without the port: RFC 6761 keeps `localhost` for this machine."""
    name = text.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost") or is_loopback_address(name.strip("[]"))
