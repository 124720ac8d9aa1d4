"""Where the stores are: those that the settings name, else embedded ones, started and stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from app.embedded.postgres import APP_ROLE, OWNER_ROLE, EmbeddedPostgres
from app.embedded.redis import EmbeddedRedis
from app.settings import Settings


@dataclass(frozen=True)
class StoreUrls:
    """What a command connects to. URLs may hold passwords, so they are not printed."""

    database: str = field(repr=False)  # as vitrine_app
    database_owner: str | None = field(repr=False)  # None: the settings name no owner
    redis: str = field(repr=False)
    embedded: tuple[str, ...] = ()  # names of the servers that are embedded


@contextmanager
def open_stores(settings: Settings, *, redis: bool = True) -> Iterator[StoreUrls]:
    """The stores' URLs. Embedded servers run at least while the block does: what this process
    started stops at its end, by SIGTERM too; what another one runs is shared and left running.

    Blocking, for some seconds at the first start: call it outside of an event loop.

    Args:
        redis: whether the command needs Redis; without, the URL may be "".

    Raises:
        EmbeddedError: an embedded server cannot run here; the message tells what to do.
    """
    with ExitStack() as stack:
        stack.enter_context(_terminated_by_exception())
        embedded = []
        database, owner, cache = (
            settings.database_url,
            settings.database_owner_url,
            settings.redis_url,
        )
        if database is None:
            postgres = stack.enter_context(EmbeddedPostgres(settings.home))
            database, owner = postgres.url(APP_ROLE), postgres.url(OWNER_ROLE)
            embedded.append("PostgreSQL")
        if cache is None and redis:
            cache = stack.enter_context(EmbeddedRedis(settings.home)).url
            embedded.append("Redis")
        yield StoreUrls(database, owner, cache or "", tuple(embedded))


@contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """Lets SIGTERM unwind the stack, where nobody else has claimed it: its default would end this
    process and leave the servers running."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is leave:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
