"""What this process serves: for each merchant an immutable snapshot of all that is published.

Versions are polled; a merchant's new snapshot is built off to the side and takes the old one's
place between two requests. A request works with one snapshot from its beginning to its end.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import hmac
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec
import numpy as np
import structlog

from app.domain.catalogue import Section
from app.domain.configuration import MerchantConfiguration, PublishedModel
from app.domain.errors import InvalidInput, NotFound, Unauthenticated, VitrineError
from app.domain.expression import Expression, Expressions
from app.domain.item_index import ItemIndex, ItemIndexes
from app.domain.merchant import Credential, Merchant, MerchantId, StorefrontKey
from app.domain.pod import Pod, StrategyConfiguration
from app.services.rulings import Rulings, RulingsCompiler
from vitrine_sdk import BoolArray, IntArray, Model, Needs

log = structlog.get_logger()

_ROWS_AT_ONCE: Final = 20_000  # ids that are given rows before requests run again
_MASKS: Final = 32  # kept a model
_encode = msgspec.json.Encoder().encode
_numbers = itertools.count(1)


class ConfigurationSource(Protocol):
    async def versions(self) -> Mapping[MerchantId, int]:
        """The configuration version of every merchant.

        Raises:
            Unavailable: the store is away.
        """
        ...

    async def load(self, merchant: MerchantId) -> MerchantConfiguration | None:
        """Everything that is published of a merchant, of one version; None: there is no such one.

        Raises:
            Unavailable: the store is away.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A published model, opened."""

    model: Model
    needs: Needs
    reasons: tuple[str, ...]
    item_ids: Sequence[str]  # by position


class ModelLoader(Protocol):
    async def load(
        self, configuration: StrategyConfiguration, published: PublishedModel
    ) -> LoadedModel:
        """Open a published model; does not block the event loop.

        Raises:
            VitrineError: it cannot be used, with the reason for the operator.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """A model bound to its section's index: positions there, rows here."""

    merchant: MerchantId
    configuration: StrategyConfiguration
    published: PublishedModel
    model: Model
    needs: Needs
    reasons: tuple[str, ...]
    index: ItemIndex
    rows: IntArray  # by position
    positions: IntArray  # by row; -1: the model does not know the item. Later rows: unknown.
    _masks: dict[Expression, tuple[int, BoolArray]] = field(default_factory=dict)

    @property
    def items(self) -> int:
        return len(self.rows)

    def positions_of(self, rows: IntArray) -> IntArray:
        """Positions of the rows that the model knows, in order."""
        if not len(rows):
            return rows
        known = self.positions[rows[(rows >= 0) & (rows < len(self.positions))]]
        return known if not len(known) or int(known.min()) >= 0 else known[known >= 0]

    def eligible(self, filters: Expression, expressions: Expressions) -> BoolArray:
        """One flag a position: available, and the filters leave it. Made once a revision."""
        index = self.index
        found = self._masks.pop(filters, None)
        if found is None or found[0] != index.revision:
            mask = expressions.compiled(filters).mask_all() & index.available[: len(index)]
            eligible: BoolArray = mask[self.rows]
            eligible.flags.writeable = False
            found = (index.revision, eligible)
            if len(self._masks) >= _MASKS:
                del self._masks[next(iter(self._masks))]
        self._masks[filters] = found
        return found[1]


@dataclass(frozen=True, slots=True, eq=False)
class ServedPod:
    """A pod with everything that its requests need."""

    pod: Pod
    index: ItemIndex
    expressions: Expressions
    chain: tuple[ServedModel | None, ...]  # as in the pod; None: there is nothing to serve yet
    needs_history: int  # events of a shopper; 0: none
    endings: tuple[tuple[bytes, ...], ...]  # what follows an item's JSON, by place and reason
    document: bytes  # {"id", "display_name"}


@dataclass(frozen=True, slots=True, eq=False)
class ServingSnapshot:
    """All that is published of a merchant, ready to serve."""

    number: int  # names this snapshot and no other, in this process
    merchant: MerchantId
    configuration: MerchantConfiguration
    pods: Mapping[str, ServedPod]
    models: Mapping[str, ServedModel]  # by strategy configuration id
    rulings: Rulings | None = None

    def pod(self, pod_id: str) -> ServedPod:
        """
        Raises:
            NotFound: there is no such pod.
        """
        pod = self.pods.get(pod_id)
        if pod is None:
            raise NotFound(f"pod_id: there is no pod {pod_id!r}")
        return pod


@dataclass(frozen=True, slots=True)
class ServingProblem:
    """Something published that this process cannot serve."""

    merchant: MerchantId
    subject: str  # strategy configuration id, or "configuration"
    reason: str


class Serving:
    """The snapshots of this process, and who may ask for them.

    Args:
        freeze: after a swap, take what lives now out of the garbage collector's rounds. For a
            process that serves; a test process has no use for it.
    """

    def __init__(
        self,
        source: ConfigurationSource,
        loader: ModelLoader,
        indexes: ItemIndexes,
        rulings: RulingsCompiler | None = None,
        *,
        poll_seconds: float = 0.25,
        freeze: bool = False,
    ) -> None:
        self._source = source
        self._loader = loader
        self._indexes = indexes
        self._rulings = rulings
        self._poll_seconds = poll_seconds
        self._freeze = freeze
        self._snapshots: dict[MerchantId, ServingSnapshot] = {}
        self._keys: dict[str, tuple[StorefrontKey, ServingSnapshot]] = {}
        self._credentials: dict[bytes, Credential] = {}
        self._expressions: dict[int, Expressions] = {}  # by index base
        self._problems: dict[tuple[MerchantId, str], str] = {}
        self._refreshed = False
        self._away: str | None = None  # why the last poll failed
        self._refreshing = asyncio.Lock()

    # Who asks

    def snapshot(self, key: str | None) -> ServingSnapshot:
        """What a storefront key serves from.

        Raises:
            InvalidInput: there is no key.
            Unauthenticated: an unknown key.
        """
        found = self._keys.get(key) if key else None
        if found is None:
            if not key:
                raise InvalidInput.field("key", "the public key of the shop's index is missing")
            raise Unauthenticated(f"key: there is no index with the key {key[:100]!r}")
        return found[1]

    def merchant_of_key(self, key: str) -> Merchant:
        """
        Raises:
            Unauthenticated: an unknown key.
        """
        return self.snapshot(key).configuration.merchant

    def merchant(self, merchant: MerchantId) -> Merchant:
        """
        Raises:
            NotFound: there is no such merchant.
        """
        snapshot = self._snapshots.get(merchant)
        if snapshot is None:
            raise NotFound(f"there is no merchant {merchant!r}")
        return snapshot.configuration.merchant

    def allowed_origins(self, key: str) -> Sequence[str] | None:
        """Origins whose pages may use a key; empty: any; None: there is no such key."""
        found = self._keys.get(key)
        return None if found is None else found[0].allowed_origins

    def token(self, secret: str) -> Credential:
        """The credential with this secret.

        Raises:
            Unauthenticated: unknown, expired or revoked.
        """
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        credential = self._credentials.get(digest)
        # The look-up is by a hash that nobody can steer; comparing takes the same time for all.
        known = hmac.compare_digest(digest, b"\0" * 32 if credential is None else credential.digest)
        if credential is None or not known:
            raise Unauthenticated("the token is unknown or revoked")
        if credential.expires_at is not None and credential.expires_at <= time.time():
            raise Unauthenticated("the token has expired")
        return credential

    # What there is

    def merchants(self) -> Mapping[MerchantId, ServingSnapshot]:
        return self._snapshots

    def problems(self) -> list[ServingProblem]:
        """What is published and cannot be served, for readiness and the admin API."""
        return [ServingProblem(*where, reason) for where, reason in self._problems.items()]

    def missing(self) -> str | None:
        """Why this process cannot serve yet; None: it can."""
        if self._refreshed:
            return None
        return self._away or "the configuration has not been loaded yet"

    def stale(self) -> str | None:
        """Why the configuration may be older than what is published; None: it is not."""
        return self._away

    # Keeping up

    async def run(self) -> None:
        """Follow what is published until cancelled."""
        while True:
            try:
                await self.refresh()
            except VitrineError as error:
                if self._away is None:
                    log.warning("configuration_away", reason=error.message)
                self._away = error.message
            await asyncio.sleep(self._poll_seconds)

    async def refresh(self) -> bool:
        """Bring the snapshots to what is published now; whether anything changed.

        Raises:
            Unavailable: the store is away; everything serves on as it was.
        """
        async with self._refreshing:
            versions = await self._source.versions()
            changed = False
            for merchant, version in versions.items():
                old = self._snapshots.get(merchant)
                if old is None or old.configuration.merchant.configuration_version != version:
                    changed |= await self._reload(merchant, old)
            for merchant in self._snapshots.keys() - versions.keys():
                self._forget(merchant)
                changed = True
            if self._away is not None:
                log.info("configuration_back")
            self._away = None
            self._refreshed = True
            if changed and self._freeze:
                # What was frozen before is not looked at again, so this is quick.
                gc.collect()
                gc.freeze()
            return changed

    async def _reload(self, merchant: MerchantId, old: ServingSnapshot | None) -> bool:
        configuration = await self._source.load(merchant)
        if configuration is None:
            if old is not None:
                self._forget(merchant)
            return old is not None
        snapshot = await self._build(configuration, old)
        self._snapshots[merchant] = snapshot
        self._publish()
        log.info(
            "configuration_loaded",
            merchant=merchant,
            version=configuration.merchant.configuration_version,
            pods=len(snapshot.pods),
            models=len(snapshot.models),
        )
        return True

    def _forget(self, merchant: MerchantId) -> None:
        del self._snapshots[merchant]
        for where in [where for where in self._problems if where[0] == merchant]:
            del self._problems[where]
        self._publish()

    def _publish(self) -> None:
        snapshots = self._snapshots.values()
        keys = {k.key: (k, s) for s in snapshots for k in s.configuration.keys}
        credentials = {c.digest: c for s in snapshots for c in s.configuration.credentials}
        self._keys, self._credentials = keys, credentials

    async def _build(
        self, configuration: MerchantConfiguration, old: ServingSnapshot | None
    ) -> ServingSnapshot:
        merchant = configuration.merchant.id
        models: dict[str, ServedModel] = {}
        problems: dict[tuple[MerchantId, str], str] = {}
        for id_, published in configuration.models.items():
            strategy = configuration.strategies.get(id_)
            if strategy is None:
                continue
            before = None if old is None else old.models.get(id_)
            try:
                models[id_] = await self._model(merchant, strategy, published, before)
            except VitrineError as error:
                problems[merchant, id_] = error.message
                log.error(
                    "model_refused", merchant=merchant, configuration=id_, reason=error.message
                )
                if before is not None:  # the version before serves on
                    models[id_] = before
        for where in [where for where in self._problems if where[0] == merchant]:
            del self._problems[where]
        self._problems.update(problems)
        pods = {pod.id: self._pod(merchant, pod, models) for pod in configuration.pods.values()}
        rulings = None
        if self._rulings is not None:
            rulings = self._rulings.compile(configuration, self._indexes)
        return ServingSnapshot(
            number=next(_numbers),
            merchant=merchant,
            configuration=configuration,
            pods=pods,
            models=models,
            rulings=rulings,
        )

    async def _model(
        self,
        merchant: MerchantId,
        configuration: StrategyConfiguration,
        published: PublishedModel,
        before: ServedModel | None,
    ) -> ServedModel:
        if (
            before is not None
            and before.published == published
            and before.configuration == configuration
        ):
            return before
        loaded = await self._loader.load(configuration, published)
        index = self._indexes.get(merchant, Section(published.section))
        rows = np.empty(len(loaded.item_ids), np.int32)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = loaded.item_ids[start : start + _ROWS_AT_ONCE]
            rows[start : start + len(some)] = index.reserve(some)
            await asyncio.sleep(0)
        positions = np.full(len(index), -1, np.int32)
        positions[rows] = np.arange(len(rows), dtype=np.int32)
        return ServedModel(
            merchant=merchant,
            configuration=configuration,
            published=published,
            model=loaded.model,
            needs=loaded.needs,
            reasons=loaded.reasons,
            index=index,
            rows=rows,
            positions=positions,
        )

    def _pod(self, merchant: MerchantId, pod: Pod, models: Mapping[str, ServedModel]) -> ServedPod:
        index = self._indexes.get(merchant, pod.section)
        expressions = self._expressions.get(index.base)
        if expressions is None:
            expressions = self._expressions[index.base] = Expressions(index)
        # A model of another section knows other items: it is not asked.
        chain = tuple(
            model if (model := models.get(id_)) is not None and model.index is index else None
            for id_ in pod.chain
        )
        return ServedPod(
            pod=pod,
            index=index,
            expressions=expressions,
            chain=chain,
            needs_history=max((model.needs.history for model in chain if model), default=0),
            endings=tuple(
                tuple(ending(id_, reason) for reason in model.reasons) if model else ()
                for id_, model in zip(pod.chain, chain, strict=True)
            ),
            document=_encode({"id": pod.id, "display_name": pod.display_name}),
        )


def ending(
    configuration_id: str,
    reason: str,
    *,
    slotted: bool = False,
    labels: Mapping[str, object] | None = None,
) -> bytes:
    """What follows an item's JSON (see `app.domain.rendered.render`) in an answer."""
    return (
        b","
        + _encode(
            {
                "labels": labels or {},
                "matched_terms": [],
                "is_slotted": slotted,
                "strategy": {"id": configuration_id},
                "reason": reason,
            }
        )[1:]
    )
