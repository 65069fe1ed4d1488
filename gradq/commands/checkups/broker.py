"""Check of the broker. Changes nothing."""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from gradq.commands.checkups.finding import Finding, ok, problem, warning
from gradq.commands.checkups.targets import Targets
from gradq.local.broker_process import OLDEST, SOCKET_NAME, find_binary
from gradq.local.folders import place_for_sockets
from shared.addresses import without_secrets
from shared.broker import UNREACHABLE, Broker, explain, redis_url
from shared.config import Settings
from shared.errors import ConfigurationError

REDIS_SECONDS = 2.0


def broker(targets: Targets) -> Finding:
    settings = targets.settings
    if settings.redis_url is None and not targets.holder:
        try:
            return ok(f"none configured; `gradq up` starts its own ({find_binary()})")
        except ConfigurationError as error:
            return problem(error.detail, "Install redis, or set GRADQ_REDIS_URL.")
    url = broker_url(settings)
    facts: dict[str, Any] = {"url": without_secrets(url)}
    try:
        with Redis.from_url(
            redis_url(url), socket_connect_timeout=REDIS_SECONDS, socket_timeout=REDIS_SECONDS
        ) as client:
            info: dict[str, Any] = client.info("server")
            policy = _eviction_policy(client)
    except Exception as error:  # the server may return anything; redis-py raises what it meets
        named = "Start Redis there, or correct GRADQ_REDIS_URL."
        own = f"`gradq up` restarts it by itself; {settings.state_dir / 'logs' / 'broker.log'} has the reason."
        mend = named if settings.redis_url is not None else own
        why = explain(error)
        said = f"{facts['url']} does not answer: {error}" if why == UNREACHABLE else f"{facts['url']}: {why}"
        return problem(said, f"{mend} Submitted jobs are not lost.", **facts)
    if (fault := Broker(url).fault()) is not None:
        mend = "Correct that; until then workers poll the database, and jobs start up to some seconds later."
        return problem(f"{facts['url']} cannot be used: {fault}", mend, **facts)
    server = str(info.get("valkey_version") or info["redis_version"])
    facts |= {"version": server, "maxmemory_policy": policy}
    if _numbers(str(info["redis_version"])) < OLDEST:
        return problem(f"{facts['url']} is version {server}", "gradq needs 6.2 or newer: upgrade it.", **facts)
    if policy not in (None, "noeviction"):
        detail = f"{facts['url']} may evict keys (maxmemory-policy {policy})"
        return warning(detail, "Run `redis-cli CONFIG SET maxmemory-policy noeviction`.", **facts)
    return ok(f"{facts['url']}, version {server}", **facts)


def broker_url(settings: Settings) -> str:
    """The URL of GRADQ_REDIS_URL, else of the broker that `gradq up` starts."""
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    return f"redis+socket://{place_for_sockets(settings.broker_socket.parent, len(SOCKET_NAME)) / SOCKET_NAME}"


def _eviction_policy(client: Redis) -> str | None:
    try:
        return str(client.config_get("maxmemory-policy")["maxmemory-policy"])
    except (ResponseError, KeyError):  # a hosted Redis does not allow CONFIG
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
