"""The doorbell: tells workers that something waits. Carries no job; a broker that is away is no error."""

from __future__ import annotations

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

QUEUE = "gradq"
DOORBELL = "worker.tasks.doorbell"
CONNECT_SECONDS, ANSWER_SECONDS = 0.3, 0.5

log = structlog.get_logger()


class Broker:
    """Rings the bell and says whether it hangs. Connects at the first ring."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._app = Celery("gradq-bell", broker=url, set_as_current=False)
        self._app.conf.update(
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

    def ring(self) -> bool:
        """Tell one worker to look at the rows. False: the broker is away; the reconciler rings again later."""
        try:
            self._app.send_task(DOORBELL, queue=QUEUE, retry=False)
        except (OperationalError, RedisError, OSError) as error:
            log.warning("bell not rung", error=str(error))
            return False
        return True

    def ping(self) -> bool:
        try:
            with Redis.from_url(
                redis_url(self.url), socket_connect_timeout=CONNECT_SECONDS, socket_timeout=ANSWER_SECONDS
            ) as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False


def redis_url(broker_url: str) -> str:
    """redis-py's spelling of Celery's address: `redis+socket:///path` is `unix:///path`."""
    return broker_url.replace("redis+socket://", "unix://", 1)
