"""kombu's transport for Redis, for a broker that may return anything.

kombu distinguishes errors of the connection, after which Celery connects again, from all others, which end the worker:
an error that Redis returns (a read-only replica, a key of another type, a full memory) and an element of the list that
is not a message. Here each error of Redis is one of the connection, and an element that is not a message is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from redis import Redis
from redis.exceptions import InvalidResponse, RedisError

from worker.broker_state import STATE

SCHEMES = ("redis", "rediss")  # kombu reads redis+socket as redis


class Client(Redis):
    """Raises RedisError or OSError for every response to BRPOP that is not a list's name and an element, or None."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        if command_name != "BRPOP":
            return super().parse_response(connection, command_name, **options)
        try:
            response = super().parse_response(connection, command_name, **options)
        except (RedisError, OSError):
            raise
        except Exception as error:
            raise InvalidResponse(f"{type(error).__name__}: {error}") from error
        if response is None:
            return None
        if isinstance(response, list | tuple) and len(response) == 2 and all(isinstance(p, bytes) for p in response):
            return response
        raise InvalidResponse(f"{str(response)[:100]} in response to BRPOP")


class Channel(kombu_redis.Channel):
    """Takes elements out of the list, one per request, and asks for none while `takes_messages` returns False: they are
    left to other workers.

    A request that is out already may get one nevertheless, and the task sends it again. Celery's own setting for this,
    `worker_disable_prefetch`, would not read it until a task has ended; it also sees that one has ended when its event
    loop wakes up next, up to a second later.
    """

    takes_messages: Callable[[], bool] = staticmethod(lambda: True)  # called in the thread of the event loop

    def _get_client(self) -> type[Redis]:
        return Client

    def _brpop_start(self, *arguments: Any, **options: Any) -> None:
        if self.takes_messages():
            super()._brpop_start(*arguments, **options)

    def _brpop_read(self, **options: Any) -> Any:
        """Deliver the next message. Raises Empty if none came, and errors of Redis and of the connection."""
        try:
            super()._brpop_read(**options)
        except Empty:
            STATE.responded()
            raise
        except (RedisError, OSError):
            raise
        except Exception as error:  # of decoding: the element is out of the list already
            STATE.rejected(error)
        STATE.responded()
        return True


class Transport(kombu_redis.Transport):
    """`connection_errors` has every error of Redis."""

    Channel = Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.connection_errors = (*self.connection_errors, RedisError)


def register() -> None:
    """Make kombu use this transport for all addresses of a Redis, in this process."""
    TRANSPORT_ALIASES.update(dict.fromkeys(SCHEMES, f"{__name__}:{Transport.__name__}"))
