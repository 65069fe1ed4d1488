"""The doorbell message: wakes a worker when a job is queued. It carries no job data; an unreachable broker is not an
error, since workers also poll the database."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import structlog
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from celery import Celery

QUEUE = "gradq"
DOORBELL = "worker.tasks.doorbell"
CONNECT_SECONDS, ANSWER_SECONDS = 0.3, 0.5

log = structlog.get_logger()


class Broker:
    """Sends the doorbell message; `ping` reports whether Redis is reachable. Connects on first use."""

    def __init__(self, url: str) -> None:
        self.url = url

    @cached_property
    def _app(self) -> Celery:
        from celery import Celery  # takes as long as all else that `gradq up` imports, and a ping needs none of it

        app = Celery("gradq-bell", broker=self.url, set_as_current=False)
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
        """Wake one worker, which then claims a queued job. Returns False if the broker cannot be reached; workers then
        find the job when they next poll the database."""
        try:
            self._app.send_task(DOORBELL, queue=QUEUE, retry=False)
        except (OperationalError, RedisError, OSError) as error:
            log.warning("doorbell message not sent", error=str(error))
            return False
        return True

    def ping(self) -> bool:
        """Whether Redis responds within `ANSWER_SECONDS`."""
        try:
            with Redis.from_url(
                redis_url(self.url), socket_connect_timeout=CONNECT_SECONDS, socket_timeout=ANSWER_SECONDS
            ) as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False


def redis_url(broker_url: str) -> str:
    """Celery's broker URL as redis-py spells it: `redis+socket:///path` becomes `unix:///path`."""
    return broker_url.replace("redis+socket://", "unix://", 1)
