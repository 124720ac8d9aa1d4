"""A server of recommendations alone, in this process, with ports in memory: a small shop whose
strategies do what a test tells them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from app.domain.catalogue import DEFAULT_SECTION, ItemFeatures, ItemId, Section, Variation
from app.domain.configuration import MerchantConfiguration, PublishedModel
from app.domain.errors import Conflict, Unavailable
from app.domain.event import HistoryEntry, Shopper
from app.domain.item_index import ItemIndex, ItemIndexes
from app.domain.merchant import Credential, Merchant, MerchantId, Role, StorefrontKey
from app.domain.past import Past
from app.domain.pod import Pod, RunMode, StrategyConfiguration
from app.domain.rendered import RenderedItems
from app.http.application import build
from app.http.health import Readiness
from app.http.server import Limits, Server, listening_socket
from app.http.storefront import Storefront, result_ids
from app.plugins.runner import StrategyRunner
from app.services.recommend import Recommend, ServedSample
from app.services.serving import LoadedModel, Serving
from app.services.shopper_history import Histories, HistoryReader
from app.services.showing import FeatureReader
from app.telemetry.metrics import Metrics
from app.telemetry.output import Output
from app.telemetry.traces import Tracer
from vitrine_sdk import NO_CANDIDATES, Candidates, Context, EventType, Needs

SHOP = MerchantId("shop")
KEY = "key-shop"
COLORS = ("red", "green", "blue")
BRANDS = ("acme", "bolt")


def candidates(positions: Sequence[int], reason: int = 0) -> Candidates:
    """Best first."""
    count = len(positions)
    return Candidates(
        np.array(positions, np.int32),
        np.linspace(1, 0.5, count, dtype=np.float32),
        np.full(count, reason, np.uint8),
    )


@dataclass(eq=False)
class Scripted:
    """A model that calls a function; remembers how it was asked."""

    answer: Callable[[Context, int], Any]
    needs: Needs = field(default_factory=Needs)
    asked: list[tuple[Context, int]] = field(default_factory=list)

    def recommend(self, context: Context, limit: int) -> Candidates:
        self.asked.append((context, limit))
        return self.answer(context, limit)


def in_order(items: int) -> Scripted:
    """The items as they are numbered."""
    return Scripted(lambda _, limit: candidates(range(min(limit, items))))


def after_seeds(items: int) -> Scripted:
    """The items that come after the first seed."""

    def answer(context: Context, limit: int) -> Candidates:
        if not len(context.seeds):
            return NO_CANDIDATES
        seed = int(context.seeds[0])
        return candidates([(seed + n) % items for n in range(1, min(limit, items - 1) + 1)])

    return Scripted(answer, Needs(seeds=True))


def after_latest(items: int) -> Scripted:
    """The items that come after the one that the shopper acted on last."""

    def answer(context: Context, limit: int) -> Candidates:
        if not len(context.history):
            return NO_CANDIDATES
        last = int(context.history.items[0])
        return candidates([(last + n) % items for n in range(1, min(limit, items - 1) + 1)])

    return Scripted(answer, Needs(history=20))


@dataclass
class Features:
    """Item features as Redis has them."""

    items: dict[str, ItemFeatures]
    away: bool = False
    stalled: bool = False
    reads: int = 0

    async def features(
        self, merchant: MerchantId, section: Section, ids: Sequence[ItemId]
    ) -> Sequence[ItemFeatures | None]:
        assert (merchant, section) == (SHOP, DEFAULT_SECTION)
        self.reads += 1
        if self.stalled:
            await asyncio.Event().wait()
        if self.away:
            raise Unavailable("away")
        return [self.items.get(item_id) for item_id in ids]


@dataclass
class History:
    """Shoppers' histories as Redis has them, newest first."""

    entries: dict[str, list[HistoryEntry]] = field(default_factory=dict)
    away: bool = False
    stalled: bool = False
    reads: int = 0

    async def read(self, merchant: MerchantId, shopper: Shopper, limit: int, until: float) -> Past:
        assert merchant == SHOP
        self.reads += 1
        if self.stalled:
            async with asyncio.timeout_at(until):
                await asyncio.Event().wait()
        if self.away:
            raise Unavailable("away")
        return Past.of(self.entries.get(shopper.id or "", [])[:limit])

    def act(
        self, shopper_id: str, item_id: str, type_: EventType = EventType.VIEW, time: float = 0
    ) -> None:
        entry = HistoryEntry(ItemId(item_id), type_, time)
        self.entries.setdefault(shopper_id, []).insert(0, entry)


@dataclass
class Samples:
    recorded: list[ServedSample] = field(default_factory=list)

    def record(self, sample: ServedSample) -> None:
        self.recorded.append(sample)


class Published:
    """What the shop has published: the configuration source and the model loader of tests."""

    def __init__(self) -> None:
        self.configurations: dict[MerchantId, MerchantConfiguration] = {}
        self.models: dict[str, LoadedModel] = {}  # by location
        self.away = False
        self.loads = 0

    async def versions(self) -> Mapping[MerchantId, int]:
        if self.away:
            raise Unavailable("the database does not answer now")
        return {
            id_: configuration.merchant.configuration_version
            for id_, configuration in self.configurations.items()
        }

    async def load(self, *args: Any) -> Any:
        if len(args) == 1:
            return self.configurations.get(args[0])
        self.loads += 1
        model = self.models.get(args[1].location)
        if model is None:
            raise Conflict(f"artefact {args[1].location} is missing")
        return model


def product(number: int, **fields: Any) -> ItemFeatures:
    """i0, i1, ...: colours and brands in turn, each 10 dearer than the one before."""
    attributes = {
        "color": (COLORS[number % 3],),
        "brand": (BRANDS[number % 2],),
        "group_id": (f"g{number % 4}", "all"),
        **fields.pop("attributes", {}),
    }
    data = {"url": f"/i{number}", "price": 10.0 * (number + 1), "_cost": number}
    given = {"available": True, "price": 10.0 * (number + 1), "data": data, **fields}
    return ItemFeatures(
        id=ItemId(f"i{number}"),
        version=1,
        name=f"Item {number}",
        attributes=attributes,
        **given,
    )


def with_variations(number: int, *colors: str) -> ItemFeatures:
    variations = tuple(
        Variation(
            id=f"i{number}-{color}",
            item_id=ItemId(f"i{number}"),
            name=f"Item {number} in {color}",
            data={
                "facets": [{"name": "color", "values": [color]}],
                "image_url": f"/{color}.png",
                "size": size,
                "price": price,
            },
        )
        for price, (color, size) in enumerate((c, s) for c in colors for s in ("S", "L"))
    )
    return product(number, attributes={"color": colors}, variations=variations)


class RecommendingShop:
    """Everything of one server process that recommends. `items` are published, at version 1."""

    def __init__(
        self,
        items: Sequence[ItemFeatures] | int = 30,
        *,
        near_cache_bytes: int = 1 << 20,
        budget: float = 5.0,
        sample_rate: float = 0.0,
        origins: tuple[str, ...] = (),
        runner_options: Mapping[str, Any] | None = None,
        prefill: bool = True,
        history_reader: HistoryReader | None = None,
        feature_reader: FeatureReader | None = None,
    ) -> None:
        self.items = [product(n) for n in range(items)] if isinstance(items, int) else list(items)
        self.published = Published()
        self.indexes = ItemIndexes(RenderedItems(near_cache_bytes if prefill else 1))
        self.index: ItemIndex = self.indexes.get(SHOP, DEFAULT_SECTION)
        self.index.apply([self.index.prepare(self.items)], 1)
        if not prefill:
            rendered = RenderedItems(near_cache_bytes)
            self.index.rendered = self.indexes.rendered = rendered
        self.features = Features({item.id: item for item in self.items})
        self.history = History()
        self.samples = Samples()
        self.metrics = Metrics()
        self.readiness = Readiness()
        self.serving = Serving(self.published, self.published, self.indexes)
        self.runner = StrategyRunner(self.metrics, **(runner_options or {}))
        self.histories = Histories(history_reader or self.history)
        self.service = Recommend(
            self.runner,
            self.histories,
            feature_reader or self.features,
            self.samples,
            self.metrics,
            random=lambda: 0.5,
            budget=budget,
            sample_rate=sample_rate,
        )
        digest = hashlib.sha256(b"token-shop").digest()
        self.published.configurations[SHOP] = MerchantConfiguration(
            merchant=Merchant(id=SHOP, name="Shop"),
            keys=(StorefrontKey(KEY, SHOP, origins),),
            credentials=(Credential("t1", SHOP, Role.READER, digest),),
        )

    @property
    def ids(self) -> list[str]:
        return [item.id for item in self.items]

    def strategy(
        self, id_: str, model: Scripted, *, mode: RunMode = RunMode.INLINE, number: int = 1
    ) -> Scripted:
        """Publish a strategy configuration with its model, fitted on all items."""
        location = f"{id_}/{number}"
        self.published.models[location] = LoadedModel(
            model=model, needs=model.needs, reasons=("tested", "other"), item_ids=self.ids
        )
        published = PublishedModel(
            id=number, configuration_id=id_, section=DEFAULT_SECTION, number=number,
            location=location, sha256="",
        )  # fmt: skip
        old = self.configuration
        self.publish(
            strategies={
                **old.strategies,
                id_: StrategyConfiguration(id=id_, strategy="scripted", mode=mode),
            },
            models={**old.models, id_: published},
        )
        return model

    def pod(self, id_: str, *chain: str, **fields: Any) -> None:
        pod = Pod(id=id_, display_name=f"Pod {id_}", chain=chain, **fields)
        self.publish(pods={**self.configuration.pods, id_: pod})

    @property
    def configuration(self) -> MerchantConfiguration:
        return self.published.configurations[SHOP]

    def publish(self, **changes: Any) -> None:
        old = self.configuration
        version = old.merchant.configuration_version + 1
        merchant = msgspec.structs.replace(old.merchant, configuration_version=version)
        self.published.configurations[SHOP] = msgspec.structs.replace(
            old, merchant=merchant, **changes
        )

    def change(self, *items: ItemFeatures, deleted: Sequence[str] = ()) -> None:
        """Bring a change of the catalogue to Redis and to the index."""
        for item in items:
            self.features.items[item.id] = item
        for item_id in deleted:
            self.features.items.pop(item_id, None)
        gone = [ItemId(item_id) for item_id in deleted]
        self.index.apply([self.index.prepare(items, gone)], self.index.version + 1)

    @asynccontextmanager
    async def serve(
        self, directory: Path, *, limits: Limits | None = None, tracer: Tracer | None = None
    ) -> AsyncIterator[str]:
        """The URL of the shop's server; its log is written below `directory`."""
        await self.serving.refresh()
        limits = limits or Limits()
        with (directory / "log").open("wb") as log:
            application = build(
                Storefront(self.serving, self.service, result_ids()).operations(),
                authenticator=self.serving,
                origins=self.serving,
                readiness=self.readiness,
                metrics=self.metrics,
                output=Output(log.fileno()),
                limits=limits,
                tracer=tracer,
            )
            async with running(application, limits) as url:
                yield url


@asynccontextmanager
async def running(application: web.Application, limits: Limits) -> AsyncIterator[str]:
    """The URL of a server of an application, as a worker runs it."""
    server = Server(application, limits)
    await server.start()
    listening = listening_socket("127.0.0.1", 0)
    port = listening.getsockname()[1]
    await server.listen(listening)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await server.stop(0.0)


def result_item_ids(answer: Mapping[str, Any]) -> list[str]:
    return [result["data"]["id"] for result in answer["response"]["results"]]
