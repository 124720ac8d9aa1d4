"""Both embedded servers together, as the demo, the commands and the tests use them."""

from __future__ import annotations

from pathlib import Path

from app.embedded.postgres import APP_ROLE, OWNER_ROLE, EmbeddedPostgres
from app.embedded.redis import EmbeddedRedis


class EmbeddedServers:
    """PostgreSQL and Redis below one directory. `start` and `stop` block for up to seconds; call
    them in a thread where an event loop runs.

    Args:
        home: settings.home.
        durable: False for tests: nothing is synced to disk, Redis forgets at its end.
    """

    def __init__(self, home: Path, *, durable: bool = True) -> None:
        self.postgres = EmbeddedPostgres(home, durable=durable)
        self.redis = EmbeddedRedis(home, durable=durable)

    @property
    def database_url(self) -> str:
        """As the server's role: VITRINE_DATABASE_URL."""
        return self.postgres.url(APP_ROLE)

    @property
    def database_owner_url(self) -> str:
        """As the schema's owner: VITRINE_DATABASE_OWNER_URL."""
        return self.postgres.url(OWNER_ROLE)

    @property
    def redis_url(self) -> str:
        return self.redis.url

    def start(self) -> None:
        """Starts, adopts or attaches to both.

        Raises:
            EmbeddedError: one cannot run here; nothing that was started here runs on.
        """
        self.postgres.start()
        try:
            self.redis.start()
        except BaseException:
            self.postgres.stop()
            raise

    def stop(self) -> None:
        """Stops what this object owns."""
        try:
            self.redis.stop()
        finally:
            self.postgres.stop()

    def __enter__(self) -> EmbeddedServers:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
