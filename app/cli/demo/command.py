"""`vitrine demo`: starts everything, prepares what is missing, serves."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import msgspec

from app.cli.demo.prepare import State, prepare
from app.cli.demo.shop import PAGES, PODS, ShopError, ShopSource
from app.cli.demo.shop_catalogue import SqliteShopCatalogue
from app.cli.demo.storefront_client import Installing
from app.cli.demo.supermarket import SupermarketSource
from app.cli.serving import serve_forever
from app.cli.wiring import opened_settings
from app.domain.errors import VitrineError
from app.embedded import EmbeddedError
from app.http.server import Place, Service, listening_socket
from app.http.shop_page import ShopConfig, ShopPage
from app.postgres.migration import MigrationError
from app.process import build_service
from app.settings import Settings, from_environment

_FAILED: Final = 1
# Ends with the demo, even if that is killed: then its standard input ends.
_WORKER: Final = (
    "import os, signal, sys, threading\n"
    "def watch():\n"
    "    sys.stdin.buffer.read()\n"
    "    os.kill(os.getpid(), signal.SIGTERM)\n"
    "threading.Thread(target=watch, daemon=True).start()\n"
    "from app.cli import main\n"
    "main()\n"
)


class DemoFile(msgspec.Struct, frozen=True, kw_only=True):
    """What .vitrine/demo.json tells other programs."""

    url: str
    key: str
    token: str
    pods: tuple[str, ...]
    merchant: str
    shop: str | None  # address of the shop page
    docs: str


@click.command(epilog="Example: vitrine demo --port 8000")
@click.option(
    "--data",
    type=click.Path(exists=True, path_type=Path),
    help="Another shop's files: a folder with items.* and events.* (CSV, JSONL or Parquet).",
)
@click.option("--host", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="[default: 8000]")
@click.option("--workers", type=click.IntRange(min=1), help="Server processes. [default: 1]")
@click.option(
    "--real-dates",
    is_flag=True,
    help="Leave the supermarket's purchases in 2017, instead of the year up to now.",
)
def demo(
    data: Path | None, host: str | None, port: int | None, workers: int | None, real_dates: bool
) -> None:
    """Run a shop: stores, catalogue, a year of purchases, fitted strategies, server and page.

    The first start takes minutes, each further one seconds. Ctrl-C stops all that was started.
    Addresses, key and token are written to .vitrine/demo.json.
    """
    given = {"host": host, "port": port, "workers": workers}
    settings = msgspec.structs.replace(
        from_environment(), **{name: value for name, value in given.items() if value is not None}
    )
    try:
        source = _source(data, real_dates)
        _check_address(settings)
        with opened_settings(settings) as opened:
            code = _run(opened, source)
    except (EmbeddedError, MigrationError, ShopError) as error:
        raise click.ClickException(str(error)) from None
    except VitrineError as error:
        raise click.ClickException(error.message) from None
    raise SystemExit(int(code))


def _source(data: Path | None, real_dates: bool) -> ShopSource:
    if data is None:
        return SupermarketSource(real_dates=real_dates)
    from app.cli.demo.shop_files import shop_of_files  # read only where it is asked for

    return shop_of_files(data)


def _check_address(settings: Settings) -> None:
    """Minutes of preparation are no good if the port is taken."""
    try:
        listening_socket(settings.host, settings.port).close()
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): give another"
            " --port"
        ) from None


def _run(settings: Settings, source: ShopSource) -> int:
    if settings.database_owner_url is None:
        raise click.ClickException(
            "VITRINE_DATABASE_URL is set: set VITRINE_DATABASE_OWNER_URL too, to the same database"
            " as the schema's owner"
        )
    folder = settings.home / "demo" / source.merchant
    (settings.home / "demo").mkdir(parents=True, exist_ok=True)
    client = Installing(settings.home / "demo")
    try:
        state = _prepare(settings, source, folder)
        module = client.wait()
    finally:
        client.stop()
    if state is None:
        return _FAILED
    if module is None:
        click.echo(f"The shop page is left out: {client.reason}", err=True)
    page = _page(state, folder, module)

    def build(settings: Settings, place: Place) -> Service:
        return build_service(settings, place, () if page is None else page.operations())

    def ready(url: str) -> None:
        _tell(settings, source, state, url, page is not None)

    path = settings.home / "demo" / "server.log"
    with path.open("ab") as log, _job_worker(settings):
        code = serve_forever(settings, build, ready, log.fileno())
    if code:
        click.echo(f"The server ended; {path} says why:\n{_tail(path)}", err=True)
    return code


def _prepare(settings: Settings, source: ShopSource, folder: Path) -> State | None:
    """In a process of its own: what reading and fitting take of memory and threads is gone when
    the server forks. None: it failed, and said why."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_prepare_here, args=(settings, source, folder, sending))
    process.start()
    sending.close()
    try:
        encoded = receiving.recv_bytes()
    except EOFError:
        return None
    finally:
        if process.is_alive():
            process.join(1)
        process.terminate()
        process.join()
    return msgspec.json.decode(encoded, type=State)


def _prepare_here(settings: Settings, source: ShopSource, folder: Path, sending: object) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_FAILED))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        state = prepare(settings, source, folder)
    except (ShopError, MigrationError, RuntimeError) as error:
        click.echo(f"\nError: {error}", err=True)
        raise SystemExit(_FAILED) from None
    except VitrineError as error:
        click.echo(f"\nError: {error.message}", err=True)
        raise SystemExit(_FAILED) from None
    except KeyboardInterrupt:
        raise SystemExit(_FAILED) from None
    sending.send_bytes(msgspec.json.encode(state))  # type: ignore[attr-defined]  # a Connection


def _tail(path: Path, lines: int = 5) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def _end_with_parent() -> None:
    """A demo that was killed leaves nobody behind who goes on importing."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(_FAILED)


def _page(state: State, folder: Path, module: Path | None) -> ShopPage | None:
    summary = state.summary
    if module is None or summary is None:
        return None
    config = ShopConfig(summary.name, summary.about, summary.currency, state.key)
    return ShopPage(config, SqliteShopCatalogue(folder / PAGES), module)


def _tell(settings: Settings, source: ShopSource, state: State, url: str, page: bool) -> None:
    path = settings.home / "demo.json"
    demo = DemoFile(
        url=url,
        key=state.key,
        token=state.token,
        pods=tuple(PODS),
        merchant=source.merchant,
        shop=f"{url}/shop/" if page else None,
        docs=f"{url}/docs",
    )
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(demo), indent=2) + b"\n")
    temporary.replace(path)
    click.echo(
        "\n".join(
            (
                "",
                *((f"  The shop      {demo.shop}",) if page else ()),
                f"  The API       {demo.docs}",
                f"  Key and token {path}",
                f"  Log           {settings.home / 'demo' / 'server.log'}",
                "  Try           "
                f"curl '{url}/recommendations/v1/pods/home_popular?key={state.key}&num_results=3'",
                "",
                "  Ctrl-C stops everything.",
                "",
            )
        ),
        err=True,
    )


@contextlib.contextmanager
def _job_worker(settings: Settings) -> Iterator[None]:
    """Runs `vitrine worker` beside the server, for trainings that the admin API asks for."""
    environment = {
        **os.environ,
        "VITRINE_DATABASE_URL": settings.database_url or "",
        "VITRINE_DATABASE_OWNER_URL": settings.database_owner_url or "",
        "VITRINE_REDIS_URL": settings.redis_url or "",
        "VITRINE_HOME": str(settings.home),
    }
    with (settings.home / "demo" / "worker.log").open("ab") as log:
        process = subprocess.Popen(  # noqa: S603  # nothing of it comes from outside
            [sys.executable, "-c", _WORKER, "worker"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
