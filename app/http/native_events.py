"""`POST /v1/events`: events from a back end, up to 1,000 a call, each answered for itself."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from aiohttp import hdrs, web

from app.domain import fingerprint, personal_data
from app.domain.catalogue import DEFAULT_SECTION, ItemId, Section
from app.domain.errors import InvalidInput, TooLarge
from app.domain.event import Event, Line, Shopper
from app.domain.merchant import Merchant, Role
from app.domain.traffic import may_track
from app.http.caller import caller, decode_json, locate
from app.http.operation import Operation
from app.http.tracking import set_apart
from app.services.track import Directory, Outcome, Receipt, Tracker
from vitrine_sdk import EventType

MAX_EVENTS: Final = 1000
MAX_BODY: Final = 8 * 1024 * 1024
_TURN: Final = 250  # events, a millisecond
MAX_AHEAD_SECONDS: Final = 300.0
OLDEST: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC).timestamp()
_JSON_LINES: Final = ("application/x-ndjson", "application/jsonl", "application/x-jsonlines")

# Checked by `_refuse_nul`: as msgspec's own, the pattern would take four fifths of decoding.
Identifier = Annotated[
    str,
    msgspec.Meta(min_length=1, max_length=256, extra_json_schema={"pattern": r"^[^\x00]*\Z"}),
]
Money = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
TYPES: Final = {type_.name.lower(): type_ for type_ in EventType if type_ is not EventType.OTHER}


class NativeLine(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    item_id: Identifier
    variation_id: Identifier | None = None
    quantity: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 1.0
    price: Money | None = None


class NativeEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """An event in Vitrine's own words. `client_id` or `user_id` says who; `item_id` is short for
    one of `items`."""

    type: Literal["impression", "view", "click", "cart", "purchase", "search", "conversion"]
    id: Identifier | None = None
    """Yours: the event counts once, however often it is sent."""
    time: dt.datetime | Annotated[float, msgspec.Meta(ge=0)] | None = None
    """RFC 3339 or Unix seconds; now, where it is left out. From the year 2000 on."""
    client_id: Identifier | None = None
    user_id: Identifier | None = None
    session: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    section: Identifier = DEFAULT_SECTION
    item_id: Identifier | None = None
    variation_id: Identifier | None = None
    items: Annotated[tuple[NativeLine, ...], msgspec.Meta(max_length=1000)] = ()
    order_id: Identifier | None = None
    """An order counts once, for ever, from whichever side it is told."""
    revenue: Money | None = None
    result_id: Identifier | None = None
    pod_id: Identifier | None = None
    strategy: Identifier | None = None
    term: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    conversion_type: Identifier | None = None
    consent: bool | None = None
    data: dict[str, Any] = {}


class NativeEvents(msgspec.Struct, frozen=True):
    events: tuple[NativeEvent, ...]


class EventAnswer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    status: Literal["accepted", "duplicate", "rejected", "not_tracked"]
    id: str | None = None  # the event's own
    pointer: str | None = None  # JSON pointer to what is wrong, from the body's root
    reason: str | None = None


class EventsAnswer(msgspec.Struct, frozen=True):
    accepted: int
    duplicate: int
    rejected: int
    not_tracked: int  # for want of consent
    events: tuple[EventAnswer, ...]  # one an event, in order


class _RawEvents(msgspec.Struct, frozen=True):
    events: list[msgspec.Raw]


_encode = msgspec.json.Encoder().encode
_decode_event = msgspec.json.Decoder(NativeEvent).decode
_decode_lines = msgspec.json.Decoder(NativeEvent).decode_lines
_decode_list = msgspec.json.Decoder(tuple[NativeEvent, ...]).decode
_decode_object = msgspec.json.Decoder(NativeEvents).decode
_DEFAULT_TYPE: Final = "custom"
_NUL: Final = b"\\u0000"  # as JSON writes it, and in no other way
_IDENTIFIERS: Final = (
    *("id", "client_id", "user_id", "section", "item_id", "variation_id", "order_id"),
    *("result_id", "pod_id", "strategy", "conversion_type"),
)


class NativeEventsHandler:
    """
    Args:
        on_untracked: told of an event that was not kept for want of consent.
    """

    def __init__(
        self,
        directory: Directory,
        tracker: Tracker,
        *,
        on_untracked: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._tracker = tracker
        self._on_untracked = on_untracked
        self._clock = clock

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "POST",
                "/v1/events",
                "sendEvents",
                "tracking",
                "Send up to 1,000 events from a back end",
                self.send,
                roles=frozenset((Role.INGEST, Role.ADMINISTRATOR)),
                body=NativeEvents | tuple[NativeEvent, ...],
                body_media_types=("application/json", *_JSON_LINES),
                body_example={
                    "events": [
                        {
                            "id": "order-1001",
                            "type": "purchase",
                            "time": "2026-01-31T12:00:00Z",
                            "user_id": "42",
                            "order_id": "1001",
                            "items": [{"item_id": "7", "quantity": 2, "price": 1.5}],
                        }
                    ]
                },
                responses={200: EventsAnswer},
                description=(
                    "An object with `events`, an array of events, or JSON lines "
                    "(application/x-ndjson). Each event is answered for itself, in order. "
                    "An accepted event is durable."
                ),
                max_body_bytes=MAX_BODY,
            ),
        )

    async def send(self, request: web.Request) -> web.Response:
        merchant = self._directory.merchant(caller(request).merchant)
        received = self._clock()
        base, given = _split(await request.read(), request.headers.get(hdrs.CONTENT_TYPE, ""))
        if len(given) > MAX_EVENTS:
            raise TooLarge.field(base, f"holds {len(given)} events; {MAX_EVENTS} are taken a call")
        answers: list[EventAnswer | None] = []
        events: list[Event] = []
        ids: list[str | None] = []
        for index, one in enumerate(given):
            if index % _TURN == _TURN - 1:
                await asyncio.sleep(0)  # others' requests do not wait for all of it
            try:
                native = one if isinstance(one, NativeEvent) else _decode(one)
                if may_track(merchant.tracking, native.consent, refusal_signal=False):
                    events.append(convert(merchant, native, received))
                    ids.append(native.id)
                    answers.append(None)
                else:
                    self._on_untracked()
                    answers.append(EventAnswer("not_tracked", native.id))
            except msgspec.MsgspecError as error:
                pointer, reason = locate(str(error))
                answers.append(_rejected(f"{base}/{index}{pointer}", reason))
            except InvalidInput as error:
                wrong = error.errors[0]
                answers.append(_rejected(f"{base}/{index}{wrong.field}", wrong.message))
            except (RecursionError, UnicodeDecodeError):
                answers.append(_rejected(f"{base}/{index}", "is no JSON that can be read"))
        receipts = await self._tracker.track(events)
        stored = iter(zip(receipts, ids, strict=True))
        result = tuple(
            _answer(*next(stored), f"{base}/{index}") if answer is None else answer
            for index, answer in enumerate(answers)
        )
        count = dict.fromkeys(("accepted", "duplicate", "rejected", "not_tracked"), 0)
        for answer in result:
            count[answer.status] += 1
        return web.Response(
            body=_encode(EventsAnswer(**count, events=result)), content_type="application/json"
        )


def convert(merchant: Merchant, native: NativeEvent, received: float) -> Event:
    """The domain's event.

    Raises:
        InvalidInput: with a JSON pointer from the event on.
    """
    if native.client_id is None and native.user_id is None:
        raise InvalidInput.field("/user_id", "client_id or user_id is required: who did it?")
    if native.item_id is not None and native.items:
        raise InvalidInput.field("/item_id", "give either item_id or items, not both")
    if native.type == "purchase" and not native.items and native.item_id is None:
        raise InvalidInput.field("/items", "a purchase needs at least one item")
    if native.type == "search" and native.term is None:
        raise InvalidInput.field("/term", "a search needs its term")
    stated_at = _stated_at(native, received)
    type_ = TYPES[native.type]
    if native.item_id is not None:
        lines: tuple[Line, ...] = (
            Line(item_id=ItemId(native.item_id), variation_id=native.variation_id),
        )
    else:
        lines = tuple(
            Line(
                item_id=ItemId(line.item_id),
                variation_id=line.variation_id,
                quantity=line.quantity,
                price=line.price,
            )
            for line in native.items
        )
    event = Event(
        merchant=merchant.id,
        type=type_,
        action=native.type,
        time=round(received if stated_at is None else stated_at, 3),
        received=received,
        shopper=Shopper(native.client_id, native.user_id, native.session),
        fingerprint=_fingerprint(merchant, native, stated_at),
        section=Section(native.section),
        lines=lines,
        revenue=native.revenue,
        order_id=native.order_id,
        result_id=native.result_id,
        pod_id=native.pod_id,
        strategy=native.strategy,
        term=personal_data.scrub_text(native.term) if native.term else None,
        conversion_type=(native.conversion_type or _DEFAULT_TYPE)
        if type_ is EventType.CONVERSION
        else None,
        payload=personal_data.scrub(native.data) if native.data else {},
    )
    return set_apart(merchant, event, "", None)  # the sender is a back end, not the shopper


def _stated_at(native: NativeEvent, received: float) -> float | None:
    stated = native.time
    if stated is None:
        return None
    if isinstance(stated, dt.datetime):
        if stated.tzinfo is None:
            raise InvalidInput.field("/time", "must say its time zone: 2026-01-31T12:00:00Z")
        stated = stated.timestamp()
    if stated > received + MAX_AHEAD_SECONDS:
        raise InvalidInput.field(
            "/time", "lies in the future; Unix time is in seconds, not milliseconds"
        )
    if stated < OLDEST:
        raise InvalidInput.field("/time", "lies before the year 2000")
    return min(stated, received)


def _fingerprint(merchant: Merchant, native: NativeEvent, stated_at: float | None) -> bytes:
    if native.type == "purchase" and native.order_id is not None:
        return fingerprint.of_order(merchant.id, native.order_id)
    if native.id is not None:
        return fingerprint.of_id(merchant.id, native.id)
    return fingerprint.of_tracked(
        merchant.id,
        native.client_id or native.user_id,
        native.session,
        native.type,
        msgspec.to_builtins(native),
        stated_at,
    )


def _split(body: bytes, media_type: str) -> tuple[str, Sequence[NativeEvent | msgspec.Raw]]:
    """The events and the pointer to their list: undecoded where one of them is bad or may be deep,
    so that each is judged for itself."""
    lines = media_type.partition(";")[0].strip().lower() in _JSON_LINES
    base = "" if lines or body.lstrip()[:1] == b"[" else "/events"
    if _NUL not in body:
        with contextlib.suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            decoded: Sequence[NativeEvent]
            if lines:
                decoded = _decode_lines(body)
            elif base:
                decoded = _decode_object(body).events
            else:
                decoded = _decode_list(body)
            if lines or not any(native.data for native in decoded):
                return base, decoded
    if lines:
        return base, [msgspec.Raw(line) for line in body.splitlines() if line.strip()]
    if base:
        return base, decode_json(body, _RawEvents).events
    return base, decode_json(body, list[msgspec.Raw])


def _decode(raw: msgspec.Raw) -> NativeEvent:
    native = _decode_event(raw)
    if _NUL in bytes(raw):
        _refuse_nul(native)
    return native


def _refuse_nul(native: NativeEvent) -> None:
    """Ids are refused that PostgreSQL cannot hold."""
    ids = [(f"/{name}", getattr(native, name)) for name in _IDENTIFIERS]
    for index, line in enumerate(native.items):
        ids.append((f"/items/{index}/item_id", line.item_id))
        ids.append((f"/items/{index}/variation_id", line.variation_id))
    for pointer, value in ids:
        if value is not None and "\x00" in value:
            raise InvalidInput.field(pointer, "must not hold a NUL character")


def _rejected(pointer: str, reason: str) -> EventAnswer:
    return EventAnswer("rejected", None, pointer, reason)


def _answer(receipt: Receipt, own_id: str | None, pointer: str) -> EventAnswer:
    if receipt.outcome is Outcome.ACCEPTED:
        return EventAnswer("accepted", own_id)
    if receipt.outcome is Outcome.DUPLICATE:
        return EventAnswer("duplicate", own_id)
    return EventAnswer("rejected", own_id, pointer, receipt.reason)
