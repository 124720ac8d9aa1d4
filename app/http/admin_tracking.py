"""`/admin/v1/tracking`: which of a merchant's traffic is kept apart and not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from aiohttp import web

from app.domain.errors import FieldError, InvalidInput
from app.domain.merchant import MerchantId, TrackingSettings
from app.domain.traffic import TrafficRules
from app.http import admin_wire as wire
from app.http.caller import caller, read_json
from app.http.etag import IF_MATCH, etag, expected_versions
from app.http.operation import Operation

TRACKING: Final = "/admin/v1/tracking"
MAX_ENTRIES: Final = 1000  # of each list
MAX_LENGTH: Final = 256  # of each entry


class TrackingBody(TrackingSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As a caller writes them: a field that is not known is a mistake. In a stored row it may be a
    later version's."""


class TrackingStore(Protocol):
    """Raises (every method): NotFound, Unavailable."""

    async def tracking(self, merchant: MerchantId) -> TrackingSettings: ...

    async def set_tracking(
        self,
        merchant: MerchantId,
        tracking: TrackingSettings,
        *,
        expected: frozenset[int] | None = None,
        actor: str,
    ) -> TrackingSettings:
        """
        Raises:
            PreconditionFailed: the settings have another version than those expected.
        """
        ...


class AdminTracking:
    def __init__(self, store: TrackingStore) -> None:
        self._store = store

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "GET",
                TRACKING,
                "getTracking",
                wire.TAG,
                "Read which traffic is kept apart",
                self.read,
                roles=wire.READERS,
                responses={200: TrackingSettings},
            ),
            Operation(
                "PUT",
                TRACKING,
                "replaceTracking",
                wire.TAG,
                "Say which traffic is kept apart",
                self.replace,
                roles=wire.ADMINISTRATORS,
                parameters=(IF_MATCH,),
                body=TrackingBody,
                body_example=TrackingBody(internal_ips=("192.0.2.0/24",)),
                responses={200: TrackingSettings},
                description="Events of robots and of the merchant's own staff are stored, and"
                " neither learned from nor shown in histories.",
            ),
        )

    async def read(self, request: web.Request) -> web.Response:
        return _answer(await self._store.tracking(caller(request).merchant))

    async def replace(self, request: web.Request) -> web.Response:
        by = caller(request)
        expected = expected_versions(request)
        tracking = await read_json(request, TrackingBody)
        _check(tracking)
        return _answer(
            await self._store.set_tracking(
                by.merchant, tracking, expected=expected, actor=by.token_id
            )
        )


def _answer(tracking: TrackingSettings) -> web.Response:
    return wire.answer(tracking, headers={"ETag": etag(tracking.version)})


def _check(tracking: TrackingSettings) -> None:
    wrong = []
    for name in ("internal_ips", "internal_user_ids", "robot_agents", "conversion_types"):
        entries: tuple[str, ...] = getattr(tracking, name)
        if len(entries) > MAX_ENTRIES:
            wrong.append(FieldError(f"/{name}", f"at most {MAX_ENTRIES} entries are taken"))
        wrong += [
            FieldError(f"/{name}/{place}", f"must have 1 to {MAX_LENGTH} characters")
            for place, entry in enumerate(entries[:MAX_ENTRIES])
            if not 1 <= len(entry) <= MAX_LENGTH
        ]
    networks = TrafficRules(tracking).wrong_networks
    wrong += [
        FieldError(f"/internal_ips/{place}", 'must be an address or a network, "192.0.2.0/24"')
        for place, entry in enumerate(tracking.internal_ips)
        if entry in networks
    ]
    if wrong:
        raise InvalidInput(f"{wrong[0].field}: {wrong[0].message}", wrong)
