"""The doorbell message: wakes a worker when a job is queued. It carries no job data; an unreachable broker is not an
error, since workers also poll the database."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import structlog
from kombu.exceptions import OperationalError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ConnectionError, ResponseError, TimeoutError
from redis.retry import Retry

if TYPE_CHECKING:
    from celery import Celery

QUEUE = "gradq"
DOORBELL = "worker.tasks.doorbell"
CONNECT_SECONDS, ANSWER_SECONDS = 0.3, 0.5
BINDINGS = f"_kombu.binding.{QUEUE}"  # the set in which kombu stores which queue a message goes to
PROBE = f"{QUEUE}.probe"  # a list that does not exist
LONGEST_DETAIL = 200  # characters

UNREACHABLE = "Redis cannot be reached"
NO_REDIS = "the server at GRADQ_REDIS_URL does not respond as Redis does"

# what an error of Redis means, by its first word
MEANINGS = {
    "READONLY": "is a read-only replica; GRADQ_REDIS_URL must name the primary",
    "WRONGTYPE": "has another program's values under gradq's keys; use a Redis database of its own",
    "NOAUTH": "requires a password; set it in GRADQ_REDIS_URL",
    "WRONGPASS": "does not accept the password in GRADQ_REDIS_URL",
    "NOPERM": "does not allow gradq's user a command or key; grant it ~* +@all on a Redis database of its own",
    "LOADING": "is loading its data",
    "BUSY": "is running another program's script",
    "OOM": "has reached its maxmemory; raise it or delete what other programs store there",
    "MISCONF": "refuses writes, since it cannot save to its disk",
    "NOREPLICAS": "refuses writes, since it has too few replicas",
    "MASTERDOWN": "is a replica without its primary",
    "CLUSTERDOWN": "is a Redis Cluster that is down; gradq needs a single Redis",
    "MOVED": "is a Redis Cluster; gradq needs a single Redis",
    "ASK": "is a Redis Cluster; gradq needs a single Redis",
    "CROSSSLOT": "is a Redis Cluster; gradq needs a single Redis",
}

log = structlog.get_logger()


class Broker:
    """Sends the doorbell message; `ping` reports whether Redis is reachable, `fault` why it takes no messages. Connects
    on first use."""

    def __init__(self, url: str) -> None:
        self.url = url

    @cached_property
    def _app(self) -> Celery:
        from celery import Celery  # takes as long as all else that `gradq up` imports, and a ping needs none of it

        from shared.redis_deadline import BrokerConnection  # imports kombu's transport

        app = Celery("gradq-bell", broker=self.url, set_as_current=False)
        app.amqp.Connection = BrokerConnection
        app.conf.update(
            task_default_queue=QUEUE,
            task_ignore_result=True,
            task_serializer="json",
            accept_content=["json"],
            broker_connection_timeout=CONNECT_SECONDS,
            broker_transport_options={
                "socket_connect_timeout": CONNECT_SECONDS,
                "socket_timeout": ANSWER_SECONDS,
                "max_retries": 1,
                "interval_start": 0,
                "interval_step": 0.05,
                "retry_on_timeout": False,
            },
        )
        return app

    def ring(self) -> bool:
        """Wake one worker, which then claims a queued job. Returns False if the message could not be sent; workers then
        find the job when they next poll the database."""
        try:
            self._app.send_task(DOORBELL, queue=QUEUE, retry=False)
        except Exception as error:  # of kombu, redis-py or Python: the server may return anything
            log.warning("doorbell message not sent", error=explain(error))
            return False
        return True

    def ping(self) -> bool:
        """Whether Redis responds within `ANSWER_SECONDS`, be it with an error; not while it loads its data."""
        try:
            with self._client() as client:
                return bool(client.ping())
        except ResponseError:
            return True
        except Exception:  # as above
            return False

    def fault(self) -> str | None:
        """Why no messages can be sent through Redis, with the next step; None if they can.

        Sends the commands that messages need, in forms that change nothing: a replica, a full Redis and one with keys
        of other types respond to PING as any other.
        """
        try:
            with self._client() as client, client.pipeline(transaction=False) as pipe:
                responses = pipe.ping().llen(QUEUE).scard(BINDINGS).lpushx(PROBE, "").execute()
        except Exception as error:  # as above
            return explain(error)
        return None if responses[0] is True and all(isinstance(count, int) for count in responses) else NO_REDIS

    def _client(self) -> Redis:
        """One connection, for one call: there is nothing to retry."""
        from shared.redis_deadline import pool

        timeouts = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": ANSWER_SECONDS}
        return Redis.from_pool(pool(redis_url(self.url), retry=Retry(NoBackoff(), 0), **timeouts))


def explain(error: BaseException) -> str:
    """What an error of the broker means, in one line without addresses or passwords.

    Errors that Redis returns begin with a word in capitals, of which `MEANINGS` has the usual ones.
    """
    while isinstance(error, OperationalError) and error.__cause__ is not None:  # kombu wraps errors
        error = error.__cause__
    text = "".join(character if character.isprintable() else " " for character in str(error))
    text = text.rpartition("caused error: ")[2]  # redis-py adds the command of a pipeline
    word = getattr(error, "status_code", None) or text.partition(" ")[0]
    if word in MEANINGS:
        return f"{word}: Redis {MEANINGS[word]}"
    if isinstance(error, ResponseError | AuthenticationError):
        return f"Redis returned an error: {text[:LONGEST_DETAIL]}"
    if isinstance(error, TimeoutError):
        return "Redis does not respond in time"
    if isinstance(error, OSError | ConnectionError):
        return UNREACHABLE
    return f"{NO_REDIS} ({type(error).__name__})"


def redis_url(broker_url: str) -> str:
    """Celery's broker URL as redis-py spells it: `redis+socket:///path` becomes `unix:///path`."""
    return broker_url.replace("redis+socket://", "unix://", 1)
