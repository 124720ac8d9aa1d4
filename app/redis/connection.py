"""The connection to Redis, Valkey or a Redis Cluster, with its errors in the domain's words."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from app.domain.errors import Unavailable
from app.redis.coalescing import CoalescingRedis, Command

MOST_PARTS: Final = 4_000  # keys and values that are sent before their answers are waited for

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
        self._timeout = timeout
        self._packed = (
            None
            if cluster
            else CoalescingRedis(url, connect_timeout=connect_timeout, answer_timeout=timeout)
        )
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

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to commands that each name one key. For thousands of them: redis-py takes
        ten times as long to pack and to read one. On a cluster it is asked all the same.

        Raises:
            Unavailable: Redis is away, slow or refuses one of them; others may have been done.
        """
        replies: list[Any] = []
        with self.errors():
            for part in _parts(commands):
                if self._packed is not None:
                    async with asyncio.timeout(self._timeout):
                        replies += await self._packed.call(part)
                else:
                    async with self.pipeline() as pipeline:
                        for command in part:
                            pipeline.execute_command(*command)
                        replies += await pipeline.execute()
        return replies

    async def ping(self) -> None:
        """
        Raises:
            Unavailable
        """
        with self.errors():
            await self.client.ping()

    async def close(self) -> None:
        if self._packed is not None:
            await self._packed.close()
        await self.client.aclose()


def is_gone(error: RuntimeError) -> bool:
    """Whether it is what uvloop raises, instead of an OSError, where a connection is written to
    that was closed in this very moment. redis-py passes it on as it is."""
    return "handler is closed" in str(error)


def _parts(commands: Sequence[Command]) -> Iterator[Sequence[Command]]:
    start = size = 0
    for end, command in enumerate(commands):
        if size and size + len(command) > MOST_PARTS:
            yield commands[start:end]
            start, size = end, 0
        size += len(command)
    if start < len(commands):
        yield commands[start:]


def part(name: str) -> str:
    """A merchant, section, user or item as a part of a key: neither ":" nor braces are left."""
    return quote(name, safe="")


def shopper_tag(merchant: str, shopper_id: str) -> str:
    """The hash tag of a shopper's keys, `{merchant:shopper}`. `shopper_id` as in `Shopper.id`."""
    if not _plain(shopper_id):
        shopper_id = quote(shopper_id, safe=":")
    return f"{{{_quoted(merchant)}:{shopper_id}}}"


_plain = re.compile(r"[A-Za-z0-9_.~:-]*", re.ASCII).fullmatch
"""Whether quoting leaves a shopper's id as it is: a fifth of quoting's time."""
_quoted = lru_cache(maxsize=4_096)(part)


def _unavailable() -> Unavailable:
    return Unavailable("the cache does not answer now: try again")
