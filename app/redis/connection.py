"""The connection to Redis, Valkey or a Redis Cluster, with its errors in the domain's words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from app.domain.errors import Unavailable

# Answers that pass by themselves: it loads its data, fails over, or is told to refuse writes.
_PASSING: Final = (
    "LOADING", "READONLY", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "NOREPLICAS", "MISCONF", "OOM",
    "BUSY", "max number of clients",
)  # fmt: skip


class RedisConnection:
    """A pool of connections to one Redis, or to the nodes of a cluster.

    Make one for requests, with a timeout that a request can wait, and another for background work.

    Args:
        url: redis://host:port/0, rediss://... or unix:///path?db=0.
        cluster: whether `url` is a node of a Redis Cluster.
        pool: connections at most (a node); a call waits `timeout` seconds for a free one.
        timeout: seconds for one answer.
        connect_timeout: seconds to open a connection.
        observe: is told of each call: seconds, and whether Redis answered.
    """

    def __init__(
        self,
        url: str,
        *,
        cluster: bool = False,
        pool: int = 32,
        timeout: float = 5.0,
        connect_timeout: float = 1.0,
        observe: Callable[[float, bool], None] | None = None,
    ) -> None:
        self._observe = observe
        # One retry at once, for a connection that went away while it was idle. Waiting is not for
        # this layer: who calls knows what it can do without Redis.
        options: dict[str, Any] = {
            "socket_timeout": timeout,
            "retry": Retry(NoBackoff(), 1),
            "protocol": 3,
        }
        if cluster:
            self.client: Any = redis.RedisCluster.from_url(
                url, max_connections=pool, socket_connect_timeout=connect_timeout, **options
            )
        else:
            if not url.startswith("unix:"):
                options |= {"socket_connect_timeout": connect_timeout, "socket_keepalive": True}
            # from_pool: the client owns the pool, and closes its connections with itself.
            self.client = redis.Redis.from_pool(
                redis.BlockingConnectionPool.from_url(
                    url, max_connections=pool, timeout=timeout, **options
                )
            )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Translates what the client raises within.

        Raises:
            Unavailable: Redis is away, slow or refuses for now.
        """
        began = time.perf_counter()
        answered = False  # nor is who gives up waiting answered
        try:
            yield
            answered = True
        except ResponseError as error:
            if not str(error).startswith(_PASSING) and _PASSING[-1] not in str(error):
                answered = True
                raise
            raise _unavailable() from error
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            raise _unavailable() from error
        except RuntimeError as error:
            if not is_gone(error):
                raise
            raise _unavailable() from error
        finally:
            if self._observe is not None:
                self._observe(time.perf_counter() - began, answered)

    def pipeline(self) -> Any:
        """Commands that are sent together, no transaction. On a cluster they are split by node and
        sent at the same time; each must name one key."""
        return self.client.pipeline(transaction=False)

    async def ping(self) -> None:
        """
        Raises:
            Unavailable
        """
        with self.errors():
            await self.client.ping()

    async def close(self) -> None:
        await self.client.aclose()


def is_gone(error: RuntimeError) -> bool:
    """Whether it is what uvloop raises, instead of an OSError, where a connection is written to
    that was closed in this very moment. redis-py passes it on as it is."""
    return "handler is closed" in str(error)


def part(name: str) -> str:
    """A merchant, section, user or item as a part of a key: neither ":" nor braces are left."""
    return quote(name, safe="")


def _unavailable() -> Unavailable:
    return Unavailable("the cache does not answer now: try again")
