"""What this process serves: for each merchant an immutable snapshot of all that is published.

Versions are polled; a merchant's new snapshot is built off to the side and takes the old one's
place between two requests. A request works with one snapshot from its beginning to its end.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import msgspec
import numpy as np
import structlog

from app.domain.catalogue import Section
from app.domain.configuration import MerchantConfiguration, PublishedModel
from app.domain.errors import InvalidInput, NotFound, Unauthenticated, VitrineError
from app.domain.expression import Expressions
from app.domain.item_index import ItemIndex, ItemIndexes
from app.domain.merchant import Credential, Merchant, MerchantId, StorefrontKey
from app.domain.objective import ByValue, Calibration
from app.domain.pod import Pod, RunMode, StrategyConfiguration
from app.domain.rule import PublishedRules
from app.services.rulings import RulingsCompiler
from app.services.snapshot import Listing, ServedModel, ServedPod, ServingSnapshot, ending
from vitrine_sdk import Model, Needs

log = structlog.get_logger(module=__name__)

_ROWS_AT_ONCE: Final = 1_000  # ids that are given rows before requests run again
_RETRY_SECONDS: Final = 5.0  # after which what could not be loaded is tried again
_RULES_COMPARED: Final = 1_000  # of a rule set: a millisecond for each hundred
_encode = msgspec.json.Encoder().encode


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
    watermark: int = 0  # Unix seconds: no event after it was seen; 0: unknown
    calibration: Calibration | None = None


class ModelLoader(Protocol):
    async def load(
        self, configuration: StrategyConfiguration, published: PublishedModel
    ) -> LoadedModel:
        """Open a published model; does not block the event loop.

        Raises:
            VitrineError: it cannot be used, with the reason for the operator.
        """
        ...


@dataclass(frozen=True, slots=True)
class ServingProblem:
    """Something published that this process cannot serve."""

    merchant: MerchantId
    subject: str  # strategy configuration id, or "configuration"
    reason: str


class Serving:
    """The snapshots of this process, and who may ask for them."""

    def __init__(
        self,
        source: ConfigurationSource,
        loader: ModelLoader,
        indexes: ItemIndexes,
        rulings: RulingsCompiler | None = None,
        *,
        poll_seconds: float = 0.25,
    ) -> None:
        self._source = source
        self._loader = loader
        self._indexes = indexes
        self._rulings = rulings
        self._poll_seconds = poll_seconds
        self._snapshots: dict[MerchantId, ServingSnapshot] = {}
        self._keys: dict[str, tuple[StorefrontKey, ServingSnapshot]] = {}
        self._credentials: dict[bytes, Credential] = {}
        self._expressions: dict[int, Expressions] = {}  # by index base
        self._digests: dict[MerchantId, dict[tuple[str, int], bytes]] = {}  # of rules
        self._problems: dict[tuple[MerchantId, str], str] = {}
        self._retry_at: dict[MerchantId, float] = {}  # monotonic
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
            except Exception as error:  # a defect: what is served stays, and following goes on
                log.error("configuration_not_followed", exc_info=error)
                self._away = f"the configuration cannot be followed: {type(error).__name__}"
            await self.catch_up()
            await asyncio.sleep(self._poll_seconds)

    async def catch_up(self) -> None:
        """Do what rules ask for after the catalogue changed, ahead of the requests that would."""
        for snapshot in tuple(self._snapshots.values()):
            rulings = snapshot.rulings
            while rulings is not None and not rulings.catch_up():  # noqa: ASYNC110
                await asyncio.sleep(0)

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
                if (
                    old is None
                    or old.configuration.merchant.configuration_version != version
                    or time.monotonic() >= self._retry_at.get(merchant, math.inf)
                ):
                    changed |= await self._reload(merchant, old)
            for merchant in self._snapshots.keys() - versions.keys():
                self._forget(merchant)
                changed = True
            if self._away is not None:
                log.info("configuration_back")
            self._away = None
            self._refreshed = True
            return changed

    async def _reload(self, merchant: MerchantId, old: ServingSnapshot | None) -> bool:
        self._retry_at.pop(merchant, None)
        try:
            configuration = await self._source.load(merchant)
            if configuration is None:
                if old is not None:
                    self._forget(merchant)
                return old is not None
            snapshot = await self._build(configuration, old)
        except VitrineError:
            raise
        except Exception as error:  # noqa: BLE001  # one merchant's broken row is not the others' trouble
            self._refuse(
                merchant, "configuration", f"cannot be read: {type(error).__name__}", error
            )
            return False
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

    def _refuse(
        self, merchant: MerchantId, subject: str, reason: str, error: Exception | None = None
    ) -> None:
        """Note what cannot be served; it is tried again, and said again only if it changes."""
        self._retry_at[merchant] = time.monotonic() + _RETRY_SECONDS
        if self._problems.get((merchant, subject)) != reason:
            self._problems[merchant, subject] = reason
            log.error(
                "not_served", merchant=merchant, subject=subject, reason=reason, exc_info=error
            )

    def _forget(self, merchant: MerchantId) -> None:
        del self._snapshots[merchant]
        self._digests.pop(merchant, None)
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
        problems: dict[str, str] = {}
        for id_, published in configuration.models.items():
            strategy = configuration.strategies.get(id_)
            if strategy is None:
                continue
            before = None if old is None else old.models.get(id_)
            try:
                models[id_] = await self._model(merchant, strategy, published, before)
            except VitrineError as error:
                problems[id_] = error.message
                if before is not None:  # the version before serves on
                    models[id_] = before
        for where in [where for where in self._problems if where[0] == merchant]:
            if where[1] not in problems:
                del self._problems[where]
        for id_, reason in problems.items():
            self._refuse(merchant, id_, reason)
        rules = self._digest_of_rules(merchant, configuration.rules)
        pods = {
            pod.id: self._pod(merchant, pod, models, rules) for pod in configuration.pods.values()
        }
        rulings = None
        if self._rulings is not None:
            rulings = self._rulings.compile(configuration, self._indexes)
            # Requests run meanwhile, by the snapshot before; no event tells of anything here.
            while rulings is not None and not rulings.catch_up():  # noqa: ASYNC110
                await asyncio.sleep(0)
        return ServingSnapshot(
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
            and _apart(before.configuration) == _apart(configuration)
        ):
            # What else of a configuration changes counts from the next training on.
            return replace(before, configuration=configuration)
        loaded = await self._loader.load(configuration, published)
        index = self._indexes.get(merchant, Section(published.section))
        rows = np.empty(len(loaded.item_ids), np.int32)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = loaded.item_ids[start : start + _ROWS_AT_ONCE]
            rows[start : start + len(some)] = index.reserve(some)
            await asyncio.sleep(0)
        positions = np.full(len(index) + 1, -1, np.int32)
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
            watermark=loaded.watermark,
            calibration=loaded.calibration,
        )

    def _digest_of_rules(self, merchant: MerchantId, published: Sequence[PublishedRules]) -> bytes:
        """The same for the same rules, in whichever version."""
        known = self._digests.get(merchant, {})
        digests: dict[tuple[str, int], bytes] = {}
        for one in published:
            version = (one.rule_set_id, one.number)
            digests[version] = known.get(version) or _digest(
                one.rule_set_id,
                # What takes long to encode is told by its version.
                one.rules if len(one.rules.rules) <= _RULES_COMPARED else one.number,
            )
        self._digests[merchant] = digests
        return b"".join(digests.values())

    def _pod(
        self, merchant: MerchantId, pod: Pod, models: Mapping[str, ServedModel], rules: bytes
    ) -> ServedPod:
        index = self._indexes.get(merchant, pod.section)
        expressions = self._expressions.get(index.base)
        if expressions is None:
            expressions = self._expressions[index.base] = Expressions(index)
        # A model of another section knows other items: it is not asked.
        chain = tuple(
            model if (model := models.get(id_)) is not None and model.index is index else None
            for id_ in pod.chain
        )
        reasons = tuple(model.reasons if model else () for model in chain)
        return ServedPod(
            pod=pod,
            index=index,
            listing=Listing(
                pod=pod,
                index=index,
                reasons=reasons,
                endings=tuple(
                    tuple(ending(id_, reason) for reason in codes)
                    for id_, codes in zip(pod.chain, reasons, strict=True)
                ),
                document=_encode({"id": pod.id, "display_name": pod.display_name}),
            ),
            expressions=expressions,
            chain=chain,
            needs_history=max((model.needs.history for model in chain if model), default=0),
            generation=_digest(index.base, pod, rules),
            versions=tuple(
                _digest(model.configuration, model.published) if model else b"" for model in chain
            ),
            by_value=_by_value(pod, chain, index),
        )


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(_encode(parts), digest_size=16).digest()


def _by_value(pod: Pod, chain: Sequence[ServedModel | None], index: ItemIndex) -> ByValue | None:
    """The order of a pod that has an objective, as far as its models are calibrated."""
    objective = pod.objective
    if objective is None:
        return None
    curves = [
        None if model is None or model.calibration is None else model.calibration.curve(objective)
        for model in chain
    ]
    plain = [id_ for id_, one in zip(pod.chain, curves, strict=True) if one is None]
    if plain:
        log.warning("pod_not_calibrated", pod=pod.id, objective=objective, models=plain)
    if len(plain) == len(curves):
        return None
    return ByValue(objective, curves, index, pod.blend and not plain, pod.price_shift)


def _apart(configuration: StrategyConfiguration) -> bool:
    """Whether its model is loaded by another process than this one."""
    return configuration.mode is RunMode.PROCESS
