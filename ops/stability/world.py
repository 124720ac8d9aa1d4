"""What the scenarios happen to: a small shop on stores of its own, served by `vitrine serve` in
processes of its own, with a proxy that goes wrong on command before each store."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg

from app.cli.server_process import WORKER
from app.domain.merchant import Role
from app.embedded import APP_ROLE, OWNER_ROLE, EmbeddedPostgres, EmbeddedRedis
from app.postgres.database import connect
from app.postgres.merchants import Merchants
from app.postgres.migration import Migrations
from ops.stability.load import Shop

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "tests" / "fixtures_plugins" / "unruly"
VITRINE = str(Path(sys.executable).with_name("vitrine"))
MERCHANT = "stability"
ITEMS, EVENTS = 2_000, 6_000


class Proxy:
    """The process of `fault_proxy.py`."""

    def __init__(self, backends: Mapping[str, str]) -> None:
        command = [sys.executable, str(Path(__file__).with_name("fault_proxy.py"))]
        self._process = subprocess.Popen(
            [*command, *(f"{name}={backend}" for name, backend in backends.items())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ports: dict[str, int] = json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    async def set(self, name: str, fault: str, value: float = 0.0) -> None:
        assert self._process.stdin is not None
        command = json.dumps({"name": name, "fault": fault, "value": value})
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        await asyncio.to_thread(self._line)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


@dataclass
class Service:
    """`vitrine serve`."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def supervisor(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    def workers(self) -> list[psutil.Process]:
        """Those that serve, or are to: neither the spare nor the strategies' own processes."""
        found = []
        for child in self.supervisor.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name() == WORKER and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
        return found

    def kill(self) -> None:
        """kill -9 of all of it."""
        everybody = [*self.supervisor.children(recursive=True), self.supervisor]
        for process in everybody:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(everybody[:-1], timeout=30)
        self.process.wait()

    def serving(self) -> int:
        """How many of the workers are ready."""
        try:
            url = f"http://127.0.0.1:{self.port}/metrics"
            with urllib.request.urlopen(url, timeout=2) as answer:
                for line in answer.read().decode().splitlines():
                    if line.startswith("vitrine_workers_ready"):
                        return int(float(line.split()[-1]))
        except OSError:
            pass
        return 0

    def resident(self) -> int:
        """Bytes, of all workers."""
        total = 0
        for worker in self.workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += worker.memory_info().rss
        return total

    def descriptors(self) -> int:
        total = 0
        for worker in self.workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += worker.num_fds()
        return total

    def connections(self) -> dict[int, int]:
        """The worker's pid by its clients' ports."""
        found = {}
        for worker in self.workers():
            with contextlib.suppress(psutil.Error):
                for one in worker.net_connections("tcp"):
                    if one.raddr and one.laddr.port == self.port:
                        found[one.raddr.port] = worker.pid
        return found

    def ready(self) -> dict[str, Any] | None:
        try:
            url = f"http://127.0.0.1:{self.port}/health/ready"
            with urllib.request.urlopen(url, timeout=2) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except (OSError, urllib.error.URLError):
            return None


@dataclass
class World:
    home: Path
    postgres: EmbeddedPostgres
    redis: EmbeddedRedis
    proxy: Proxy
    environment: dict[str, str]
    key: str
    token: str
    stalls: Path | None = None  # where what held event loops up is told
    service: Service = field(init=False)

    @property
    def basic(self) -> str:
        return base64.b64encode(f"{self.token}:".encode()).decode()

    def shop(self, **changes: Any) -> Shop:
        return Shop(**{"port": self.service.port, "key": self.key, "token": self.basic,
                       "items": ITEMS, "serving": self.service.connections, **changes})  # fmt: skip

    async def serve(self, *, workers: int = 2, **settings: Any) -> None:
        """Starts the service, and returns when it is ready. `settings` by their names."""
        port = _free_port()
        environment = {
            **self.environment,
            **{f"VITRINE_{n.upper()}": str(v) for n, v in settings.items() if v is not None},
        }
        for name, value in settings.items():
            if value is None:
                environment.pop(f"VITRINE_{name.upper()}", None)
        log = self.home / "serve.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [*self._command(), "--port", str(port), "--workers", str(workers)],
                env=environment,
                stdout=file,
                stderr=file,
                cwd=ROOT,
            )
        self.service = Service(process, port, log)
        until = time.monotonic() + 120
        while self.service.ready() is None or len(self.service.workers()) < workers:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the service did not start: see {log}")
            await asyncio.sleep(0.2)

    def _command(self) -> list[str]:
        if self.stalls is None:
            return [VITRINE, "serve"]
        return [sys.executable, str(ROOT / "ops" / "bench" / "serve_watched.py"), str(self.stalls)]

    async def stop(self) -> None:
        self.service.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self.service.process.wait)

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        return await self._send(method, path, data, "application/json")

    async def upload(self, items: str) -> Any:
        """Starts the import of a CSV file, beside what there is."""
        head = 'Content-Disposition: form-data; name="items"; filename="items.csv"'
        body = f"--end\r\n{head}\r\n\r\n{items}\r\n--end--\r\n".encode()
        return await self._send("PATCH", "/v1/catalog", body, "multipart/form-data; boundary=end")

    async def _send(self, method: str, path: str, body: bytes | None, type_: str) -> Any:
        def call() -> Any:
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.service.port}{path}",
                method=method,
                data=body,
                headers={"Authorization": f"Basic {self.basic}", "Content-Type": type_},
            )
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
                return json.loads(text) if text else None

        return await asyncio.to_thread(call)

    async def merchant(self, name: str, tokens: int) -> tuple[str, list[str]]:
        """A further merchant: its key, and administrators' tokens."""
        database = connect(self.postgres.url(APP_ROLE), pool=1)
        merchants = Merchants(database)
        made = await merchants.create(name, name, actor="stability")
        key = await merchants.create_key(made.id, actor="stability")
        secrets = [
            (await merchants.create_token(made.id, Role.ADMINISTRATOR, actor="stability")).secret
            for _ in range(tokens)
        ]
        await database.close()
        await asyncio.sleep(2)  # until all workers know it
        return key.key, secrets

    async def train(self, *configurations: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *(VITRINE, "train", "-m", MERCHANT, *configurations),
            env=self.environment, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        if await process.wait():
            raise SystemExit("training failed")

    def events(self, ids: set[str]) -> tuple[int, int]:
        """How many of the events are in the log, and how many of them more than once."""
        with psycopg.connect(self.postgres.url(APP_ROLE)) as connection:
            connection.execute("SELECT set_config('vitrine.merchant', %s, false)", [MERCHANT])
            rows = connection.execute(
                "SELECT substr(item_id, 4), count(*) FROM event"
                " WHERE item_id LIKE 'ev-%' GROUP BY 1"
            ).fetchall()
        found = {id_: count for id_, count in rows if id_ in ids}
        return len(found), sum(count > 1 for count in found.values())

    async def flush_redis(self) -> None:
        from redis.asyncio import Redis

        client = Redis.from_url(self.redis.url)
        await client.flushall()
        await client.aclose()

    def kill_postgres(self) -> None:
        """kill -9 of all of it."""
        with psycopg.connect(self.postgres.url(APP_ROLE)) as connection:
            postmaster = psutil.Process(connection.info.backend_pid).ppid()
        os.kill(postmaster, signal.SIGKILL)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _item(number: int) -> dict[str, Any]:
    data = {
        "url": f"/p/{number}",
        "image_url": f"/p/{number}.jpg",
        "price": 1 + number % 97,
        "facets": [{"name": "color", "values": [("red", "green", "blue")[number % 3]]}],
    }
    return {"id": f"p{number}", "name": f"Product {number}", "data": data}


@contextlib.asynccontextmanager
async def open_world(stalls: Path | None = None) -> AsyncIterator[World]:
    """A shop with a trained pod of each kind, its service running on two workers.

    Args:
        stalls: what holds up the service's event loops and this one is told there: see
            ops/bench/serve_watched.py.
    """
    home = Path(tempfile.mkdtemp(prefix="vitrine-stability-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        # Real servers with real disks: what is acknowledged must be on one.
        postgres = EmbeddedPostgres(home, durable=True)
        await asyncio.to_thread(postgres.start)
        stack.callback(postgres.stop)
        redis = EmbeddedRedis(home, durable=False)
        await asyncio.to_thread(redis.start)
        stack.callback(redis.stop)
        with psycopg.connect(postgres.url(APP_ROLE)) as connection:
            folder, number = connection.info.host, connection.info.port
            name = connection.info.dbname
        from redis import Redis

        pool = Redis.from_url(redis.url).connection_pool
        proxy = Proxy(
            {"postgres": f"{folder}/.s.PGSQL.{number}", "redis": pool.connection_kwargs["path"]}
        )
        stack.callback(proxy.close)
        plugins = home / "plugins"
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
        source = shutil.copytree(PLUGIN, home / "unruly")
        subprocess.run(
            [*pip, "--no-build-isolation", "--target", str(plugins), str(source)], check=True
        )

        def url(role: str) -> str:
            return f"postgresql://{role}@127.0.0.1:{proxy.ports['postgres']}/{quote(name)}"

        environment = {
            **{n: v for n, v in os.environ.items() if not n.startswith("VITRINE_")},
            "PYTHONPATH": os.pathsep.join((str(plugins), str(ROOT))),
            "VITRINE_DATABASE_URL": url(APP_ROLE),
            "VITRINE_DATABASE_OWNER_URL": url(OWNER_ROLE),
            "VITRINE_REDIS_URL": f"redis://127.0.0.1:{proxy.ports['redis']}/0",
            "VITRINE_HOME": str(home / "vitrine"),
            "VITRINE_EVENT_SPOOL": str(home / "spool"),
            "VITRINE_SERVED_SAMPLE_RATE": "0",
        }
        await asyncio.to_thread(Migrations(postgres.url(OWNER_ROLE)).up)
        database = connect(postgres.url(APP_ROLE), pool=1)
        merchants = Merchants(database)
        made = await merchants.create(MERCHANT, "Stability", actor="stability")
        key = await merchants.create_key(made.id, actor="stability")
        token = await merchants.create_token(made.id, Role.ADMINISTRATOR, actor="stability")
        await database.close()
        world = World(home, postgres, redis, proxy, environment, key.key, token.secret, stalls)
        await world.serve()
        try:
            await _fill(world)
            yield world
        finally:
            if world.service.process.poll() is None:
                await world.stop()


async def _fill(world: World) -> None:
    for start in range(0, ITEMS, 500):
        items = [_item(number) for number in range(start, start + 500)]
        await world.call("PUT", "/v2/items", {"items": items})
    dice = random.Random(1)
    now = time.time()
    for start in range(0, EVENTS, 1000):
        events = [
            {
                "type": dice.choice(("view", "click", "purchase")),
                "id": f"seed-{number}",
                "item_id": f"p{int(ITEMS * dice.random() ** 3)}",
                "client_id": f"c{dice.randrange(500)}",
                "time": now - dice.randrange(20 * 86400),
            }
            for number in range(start, start + 1000)
        ]
        await world.call("POST", "/v1/events", {"events": events})
    for id_, strategy, more in (
        ("popular", "popular", {}),
        ("similar", "similar", {}),
        ("personalized", "personalized", {"config": {"embedding_epochs": 1, "embedding_size": 8}}),
        ("unruly", "unruly", {"mode": "process"}),
        ("costly", "unruly", {}),
    ):
        configuration = {"id": id_, "strategy": strategy, **more}
        await world.call("POST", "/admin/v1/strategy-configurations", configuration)
    for id_, chain in {
        "home": ["popular"],
        "pdp": ["similar", "popular"],
        "for_you": ["personalized", "popular"],
        "unruly": ["unruly", "popular"],
        "costly": ["costly"],
    }.items():
        pod = {"id": id_, "display_name": id_, "chain": chain}
        await world.call("POST", "/admin/v1/pods", pod)
    await world.train()
    until = time.monotonic() + 60
    while any(
        one["model_number"] is None
        for one in (await world.call("GET", "/admin/v1/running"))["strategies"]
    ):
        if time.monotonic() > until:
            raise SystemExit("the models do not serve")
        await asyncio.sleep(0.2)
    await asyncio.sleep(2)  # the other process, too
