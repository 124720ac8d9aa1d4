"""Levels of loggers that an operator has changed for a while: a key that ends by itself."""

from __future__ import annotations

from typing import Final

import msgspec

from app.domain.log_levels import LogLevels
from app.redis.connection import RedisConnection

KEY: Final = "vitrine:log-levels"

_decode = msgspec.json.Decoder(LogLevels).decode


class LogLevelStore:
    """Implements `app.services.log_levels.Store`."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    async def get(self) -> LogLevels | None:
        """
        Raises:
            Unavailable: Redis is away.
        """
        with self._connection.errors():
            found = await self._connection.client.get(KEY)
        return None if found is None else _decode(found)

    async def put(self, levels: LogLevels) -> None:
        """Raises as `get` does."""
        seconds = max(1, round(levels.until - levels.set_at))
        with self._connection.errors():
            await self._connection.client.set(KEY, msgspec.json.encode(levels), ex=seconds)

    async def clear(self) -> None:
        """Raises as `get` does."""
        with self._connection.errors():
            await self._connection.client.delete(KEY)
