"""One incident from end to end: a real Prometheus and a real Alertmanager watch two server
processes; Redis dies under load; the page arrives where PagerDuty would be; Redis comes back; so
does the page's resolution. Meanwhile every dashboard's query is asked.

The rules are those of ops/alerts, a minute of theirs being six seconds here. What happened is
written to build/incident.txt, and is quoted in ops/README.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from app.embedded import EmbeddedRedis
from tests.integration.test_dashboards import plain, queries
from tests.served_shop import VITRINE, Shopper, serve, start
from tests.small_shop import SmallShop

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("prometheus-alertmanager")),
        reason="apt-get install prometheus prometheus-alertmanager",
    ),
]

ROOT = Path(__file__).resolve().parents[2]
ALERTS = ROOT / "ops/alerts"
SCALE = 10  # times quicker than in earnest
PATIENCE = 180.0


def seconds(text: str) -> int:
    number, unit = int(text[:-1]), text[-1]
    return max(1, number * {"s": 1, "m": 60, "h": 3600, "d": 86400}[unit] // SCALE)


def quickened(name: str) -> str:
    """A file of rules whose times are scaled."""
    rules = json.loads((ALERTS / name).read_text().partition("\n")[2])
    for group in rules["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            rule["expr"] = re.sub(
                r"\[(\d+[mhd])\]", lambda m: f"[{max(4, seconds(m[1]))}s]", rule["expr"]
            )
            if "for" in rule:
                rule["for"] = f"{seconds(rule['for']) if rule['for'] != '0m' else 0}s"
    return json.dumps(rules)


NOTHING_HAPPENED = re.compile(
    "vitrine_(recommendations_degraded|recommendation_fallbacks|strategy_failures"
    "|attribution_failures|http_unexpected_errors|catalogue_mended_items)_total"
)
"""What a shop without trouble has nothing to say of."""


class Story:
    """What happened, when."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.lines: list[str] = []

    def tell(self, text: str) -> None:
        self.lines.append(f"{time.monotonic() - self.began:5.1f} s  {text}")
        print(self.lines[-1], flush=True)


class Receivers:
    """PagerDuty's Events v2, the quiet channel and the dead man's switch, standing in."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.pages: list[dict[str, Any]] = []
        self.quiet: list[dict[str, Any]] = []
        self.watchdog = 0

    async def page(self, request: web.Request) -> web.Response:
        event = await request.json()
        assert event["routing_key"] == "the-key"
        self.pages.append(event)
        payload = event.get("payload") or {}
        self.story.tell(f"PagerDuty: {event['event_action']} {payload.get('summary', '')}".strip())
        return web.json_response({"status": "success", "dedup_key": event["dedup_key"]}, status=202)

    def open_pages(self) -> set[str]:
        """The incidents that are not resolved."""
        last = {one["dedup_key"]: one["event_action"] for one in self.pages}
        return {key for key, action in last.items() if action == "trigger"}

    async def hush(self, request: web.Request) -> web.Response:
        self.quiet.append(await request.json())
        return web.Response()

    async def bark(self, _request: web.Request) -> web.Response:
        self.watchdog += 1
        return web.Response()


@asynccontextmanager
async def listening(receivers: Receivers) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_post("/v2/enqueue", receivers.page)
    application.router.add_post("/quiet", receivers.hush)
    application.router.add_post("/watchdog", receivers.bark)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def until(what: Callable[[], Any], story: str, log: Path | None = None) -> Any:
    end = time.monotonic() + PATIENCE
    while True:
        found = what()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        late = time.monotonic() > end
        assert not late, (story, log.read_text()[-2000:] if log else "")
        await asyncio.sleep(0.2)


def watch(
    stack: ExitStack, folder: Path, targets: dict[str, str], receivers: str
) -> tuple[str, str]:
    """Starts Alertmanager and Prometheus with the repository's configuration, made quick; their
    addresses."""
    prometheus, alertmanager = (f"127.0.0.1:{_free_port()}" for _ in range(2))
    (folder / "secrets").mkdir()
    (folder / "secrets/pagerduty_routing_key").write_text("the-key")
    (folder / "secrets/quiet_channel_url").write_text(f"{receivers}/quiet")
    text = (ALERTS / "alertmanager.yml").read_text()
    text = text.replace("global:\n", f"global:\n  pagerduty_url: {receivers}/v2/enqueue\n")
    text = text.replace("http://localhost:9099", receivers)
    text = text.replace("/etc/alertmanager/secrets", f"{folder}/secrets")
    text = re.sub(
        r"(resolve_timeout|group_wait|group_interval|repeat_interval): (\d+[smh])",
        lambda m: f"{m[1]}: {seconds(m[2])}s",
        text,
    )
    (folder / "alertmanager.yml").write_text(text)
    for name in ("slo_rules.yml", "alert_rules.yml"):
        (folder / name).write_text(quickened(name))
    text = (ALERTS / "prometheus.yml").read_text()
    text = text.replace("localhost:9093", alertmanager)
    text = re.sub(r"scrape_interval: \d+s", "scrape_interval: 2s", text)
    text = re.sub(r"evaluation_interval: \d+s", "evaluation_interval: 1s", text)
    (folder / "prometheus.yml").write_text(text)
    (folder / "targets").mkdir()
    for job, target in targets.items():
        (folder / f"targets/{job}.yml").write_text(f'- targets: ["{target}"]\n')
    start(
        stack,
        folder / "alertmanager.log",
        "prometheus-alertmanager",
        f"--config.file={folder}/alertmanager.yml",
        f"--storage.path={folder}/alertmanager",
        f"--web.listen-address={alertmanager}",
        "--cluster.listen-address=",
    )
    start(
        stack,
        folder / "prometheus.log",
        "prometheus",
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/prometheus",
        f"--web.listen-address={prometheus}",
    )
    return f"http://{prometheus}", f"http://{alertmanager}"


def of_redis(page: dict[str, Any]) -> bool:
    """Others may page too: the completeness objective's."""
    if page["event_action"] != "trigger":
        return False
    return bool(page["payload"]["custom_details"]["runbook"] == "ops/runbooks/redis-away.md")


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def shop_at_work(shop: SmallShop, failures: list[str]) -> None:
    """Shoppers ask, click what they see, and buy some of it; one wants more than there is."""
    number, shopper = 0, Shopper(shop, Counter())
    while True:
        number += 1
        client = f"c{number % 50}"
        try:
            await shopper.go("home_for_you", client, buys=number % 3 == 0)
            await shopper.go("pdp_similar", client, f"p{number % 24}", buys=number % 5 == 0)
            await shop.ask("pdp_similar", client, f"p{number % 24}", results=100)
        except (AssertionError, aiohttp.ClientError) as error:
            failures.append(str(error))
        await asyncio.sleep(0.05)


async def fill(shop: SmallShop, environment: dict[str, str]) -> None:
    await shop.fill()
    body: dict[str, Any] = {"id": "personalized", "strategy": "personalized"}
    await shop.send("POST", "/admin/v1/strategy-configurations", body)
    body = {"id": "home_for_you", "display_name": "x", "chain": ["personalized", "popular"]}
    await shop.send("POST", "/admin/v1/pods", body)
    done = await asyncio.create_subprocess_exec(
        VITRINE, "train", env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE
    )
    output = (await done.communicate())[0].decode()
    assert done.returncode == 0, output
    await shop.full("home_popular", shopper="anne")


async def test_a_dead_redis_pages_and_its_return_resolves(
    database_url: str, merchant: Any, tmp_path: Path
) -> None:
    story = Story()
    receivers = Receivers(story)
    failures: list[str] = []
    with ExitStack() as stack:
        redis = EmbeddedRedis(tmp_path / "redis", durable=False)
        redis.start()
        stack.callback(redis.stop)
        environment = {
            "VITRINE_DATABASE_URL": database_url,
            "VITRINE_REDIS_URL": redis.url,
            "VITRINE_HOME": str(tmp_path / "home"),
        }
        url = await serve(stack, tmp_path / "serve.log", "--workers", "2", **environment)
        of_worker = _free_port()
        environment["VITRINE_WORKER_METRICS"] = str(of_worker)
        start(stack, tmp_path / "worker.log", str(VITRINE), "worker", **environment)
        async with aiohttp.ClientSession() as http, listening(receivers) as address:
            shop = SmallShop(http, url, merchant.key, merchant.token)
            await fill(shop, environment)
            targets = {
                "vitrine": url.partition("://")[2],
                "vitrine-worker": f"127.0.0.1:{of_worker}",
            }
            prometheus, _ = watch(stack, tmp_path, targets, address)

            async def asked(query: str) -> list[Any]:
                with suppress(aiohttp.ClientError):
                    async with http.get(
                        f"{prometheus}/api/v1/query", params={"query": query}
                    ) as response:
                        answer = await response.json()
                        assert answer["status"] == "success", (query, answer)
                        return list(answer["data"]["result"])
                return []

            load = asyncio.create_task(shop_at_work(shop, failures))
            await shop.send("POST", "/admin/v1/trainings", {})
            await until(lambda: asked("count(up == 1) == 2"), "not all is scraped")
            # One that has just started knows of no server yet, and may have said so.
            await until(lambda: not receivers.open_pages(), "it does not calm down")
            receivers.pages.clear()
            story.tell("Prometheus scrapes two server processes under load, and a worker")
            await until(lambda: receivers.watchdog, "the watchdog does not bark")
            story.tell("the watchdog is heard")
            await asyncio.sleep(8)
            assert receivers.pages == []
            without = {query for _, query in queries() if not await asked(plain(query))}
            told = len(queries()) - sum(query in without for _, query in queries())
            story.tell(f"nothing pages; {told} of {len(queries())} dashboards' queries have data")
            strange = [query for query in without if not NOTHING_HAPPENED.search(query)]
            assert strange == [], f"without data, though it has happened: {strange}"

            redis.stop()
            story.tell("Redis is killed")
            page = await until(
                lambda: next((one for one in receivers.pages if of_redis(one)), None),
                "no page",
                tmp_path / "alertmanager.log",
            )
            details = page["payload"]["custom_details"]
            assert (ROOT / details["runbook"]).is_file()
            assert page["payload"]["severity"] == "critical"
            story.tell(f"its runbook: {details['runbook']}")
            degraded = await asked("sum(rate(vitrine_recommendations_degraded_total[10s]))")
            story.tell(f"degraded lists a second: {float(degraded[0]['value'][1]):.1f}")

            redis.start()
            story.tell("Redis is back, empty; it is made again from PostgreSQL")
            await until(
                lambda: any(
                    one["event_action"] == "resolve" and one["dedup_key"] == page["dedup_key"]
                    for one in receivers.pages
                ),
                "no resolution",
            )
            load.cancel()
            story.tell(f"calls that failed from beginning to end: {len(failures)}")
    target = ROOT / "build/incident.txt"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(story.lines) + "\n")
    assert failures == []
