"""What storefronts tell: every call of the public clients' trackers.

Consent: an event that says `consent=false` (query or body), or comes with `Sec-GPC: 1` or `DNT: 1`
without saying `consent=true`, is answered and not kept; `TrackingSettings` changes the latter.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, Final, cast
from urllib.parse import unquote_plus

import msgspec
import structlog
from aiohttp import hdrs, web

from app.domain.errors import InvalidInput, TooLarge, VitrineError
from app.domain.event import Event
from app.domain.merchant import Merchant, TrackingSettings
from app.domain.traffic import Traffic, TrafficRules, may_track
from app.http.caller import decode_json
from app.http.client_address import Sender
from app.http.middleware import canonical
from app.http.operation import Asked, Operation, Parameter, Security, Sent
from app.http.problem import from_error
from app.http.tracking_wire import ACTIONS, TERM_ACTIONS, Parameters, consent, convert
from app.services.track import Directory, Outcome, Tracker

_log = structlog.get_logger(module=__name__)

MAX_BODY: Final = 256 * 1024
MAX_PARAMETERS: Final = 200
_OK: Final = b'{"message":"ok"}'


class TrackerAnswer(msgspec.Struct, frozen=True):
    message: str


def _answered(
    method: Callable[[Tracking, web.Request], Awaitable[None]],
) -> Callable[[Tracking, web.Request], Awaitable[web.Response]]:
    """Answers as the clients expect: Constructor's node client reads an error's `message` from
    application/json alone."""

    @wraps(method)
    async def answer(self: Tracking, request: web.Request) -> web.Response:
        try:
            await method(self, request)
        except VitrineError as error:
            return _refusal(error)
        return web.Response(body=_OK, content_type="application/json")

    return answer


def _refusal(error: VitrineError) -> web.Response:
    response = from_error(error)
    response.content_type = "application/json"
    return response


def _too_large() -> TooLarge:
    return TooLarge(f"the body is too large; at most {MAX_BODY} bytes are taken")


class Tracking:
    """
    Args:
        address: the shopper's IP address of a request.
        on_untracked: told of a merchant's event that was not kept for want of consent.
    """

    def __init__(
        self,
        directory: Directory,
        tracker: Tracker,
        *,
        address: Callable[[Sender], str | None],
        on_untracked: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._tracker = tracker
        self._address = address
        self._on_untracked = on_untracked
        self._clock = clock

    def operations(self) -> Sequence[Operation]:
        common = (
            Parameter("i", str, description="Client id."),
            Parameter("s", int, description="Session number."),
            Parameter("ui", str, description="User id, once it is known."),
            Parameter("_dt", int, description="The shopper's clock, Unix milliseconds."),
            Parameter("section", str, description="Section of the items."),
            Parameter("consent", bool, description="false: the event is not kept."),
        )
        actions = ", ".join(sorted(ACTIONS))

        def operation(method: str, path: str, id_: str, summary: str, **more: Any) -> Operation:
            return Operation(
                method,
                path,
                id_,
                "tracking",
                summary,
                security=Security.KEY,
                responses={200: TrackerAnswer},
                plain_problems=True,
                **more,
            )

        return (
            operation(
                "POST",
                "/v2/behavioral_action/{action}",
                "trackAction",
                "Track what a shopper did",
                handler=self.action,
                direct=_DirectActions(self),
                description=f"Actions: {actions}.",
                parameters=common,
                body=dict[str, Any],
                body_required=False,
                body_media_types=("text/plain", "application/json"),
                body_example={"item_id": "1", "i": "client", "s": 1, "_dt": 1764000000000},
            ),
            operation(
                "POST",
                "/v2/ad_behavioral_action/{action}",
                "trackAdAction",
                "Track what a shopper did with an advertisement",
                handler=self.action,
                direct=_DirectActions(self),
                parameters=common,
                body=dict[str, Any],
                body_required=False,
                body_media_types=("text/plain", "application/json"),
            ),
            operation(
                "GET",
                "/behavior",
                "trackBehavior",
                "Track what a shopper did (older clients)",
                handler=self.behavior,
                parameters=(Parameter("action", str, required=True), *common),
            ),
            operation(
                "GET",
                r"/autocomplete/{term:[^/]*}/{name:[^/]+}",
                "trackTerm",
                "Track what a shopper did with a search term (older clients)",
                handler=self.term,
                description=f"Names: {', '.join(sorted(TERM_ACTIONS))}.",
                parameters=common,
            ),
        )

    @_answered
    async def action(self, request: web.Request) -> None:
        if (request.content_length or 0) > MAX_BODY:
            raise _too_large()
        asked = _asked(request, request.match_info["action"], await request.read())
        await self.keep(self.event(asked, asked.last, _stated(asked)))

    @_answered
    async def behavior(self, request: web.Request) -> None:
        asked = _asked(request, "")
        parameters = parse_query(asked.query)
        await self.keep(self.event(asked, str(parameters.get("action", "")), parameters))

    @_answered
    async def term(self, request: web.Request) -> None:
        name = request.match_info["name"]
        rule = TERM_ACTIONS.get(name)
        if rule is None:
            known = ", ".join(sorted(TERM_ACTIONS))
            raise InvalidInput.field("name", f"there is no {name[:100]!r}; known are {known}")
        asked = _asked(request, name)
        parameters = parse_query(asked.query)
        for old, new in rule.renamed.items():
            if old in parameters:
                parameters[new] = parameters.pop(old)
        parameters[rule.term] = request.match_info["term"]
        await self.keep(self.event(asked, rule.action, parameters))

    def event(self, asked: Asked, action: str, parameters: Parameters) -> Event | None:
        """What happened; None: nobody may know."""
        key = parameters.get("key")
        if not isinstance(key, str) or not key:
            raise InvalidInput.field("key", "the public key of the shop's index is missing")
        merchant = self._directory.merchant_of_key(key)
        asked.line.merchant = merchant.id
        event = convert(merchant, key, action, parameters, self._clock())
        headers = asked.headers
        refusal = headers.get("Sec-GPC") == "1" or headers.get("DNT") == "1"
        if not may_track(merchant.tracking, consent(parameters), refusal_signal=refusal):
            self._on_untracked()
            return None
        return set_apart(merchant, event, headers.get(hdrs.USER_AGENT, ""), self._address(asked))

    async def keep(self, event: Event | None) -> None:
        """Returns once it is durable."""
        if event is None:
            return
        (receipt,) = await self._tracker.track((event,))
        if receipt.outcome is Outcome.REJECTED:
            raise InvalidInput(receipt.reason or "the event cannot be stored")


class _DirectActions:
    """`Tracking.action`, without aiohttp's request: see `app.http.direct`."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking = tracking

    def declines(self, query: str) -> bool:  # noqa: ARG002  # none is out of the ordinary
        return False

    def now(self, asked: Asked) -> Sent | None:
        try:
            event = self._tracking.event(asked, asked.last, _stated(asked))
        except VitrineError as error:
            return _refused(error)
        if event is None:
            return _KEPT
        asked.understood = event
        return None

    async def later(self, asked: Asked) -> Sent:
        try:
            await self._tracking.keep(asked.understood)
        except VitrineError as error:
            return _refused(error)
        return _KEPT


_KEPT: Final = Sent(_OK, ((hdrs.CONTENT_TYPE, "application/json"),))


def _refused(error: VitrineError) -> Sent:
    response = _refusal(error)
    return Sent(cast(bytes, response.body), tuple(response.headers.items()), response.status)


def _asked(request: web.Request, last: str, body: bytes = b"") -> Asked:
    query = request.rel_url.raw_query_string
    return Asked(last, query, request.headers, body, canonical(request), request.remote)


def _stated(asked: Asked) -> Parameters:
    """What the query and the body say."""
    parameters = parse_query(asked.query)
    body = asked.body
    if len(body) > MAX_BODY:
        raise _too_large()
    if body:
        parameters.update(decode_json(body, dict[str, Any]))
    return parameters


def set_apart(merchant: Merchant, event: Event, agent: str, address: str | None) -> Event:
    """The event, not to be learned from where it is a robot's or the merchant's own."""
    traffic = _rules(merchant.tracking).classify(agent, address, event.shopper.user_id)
    if traffic is Traffic.SHOPPER:
        return event
    return msgspec.structs.replace(
        event, learn=False, payload={**event.payload, "traffic": traffic.value}
    )


@lru_cache(maxsize=1024)
def _rules(settings: TrackingSettings) -> TrafficRules:
    rules = TrafficRules(settings)
    if rules.wrong_networks:
        _log.warning("internal_ips_ignored", wrong=rules.wrong_networks)
    return rules


def parse_query(query: str) -> Parameters:
    """The query's parameters. One that comes several times is a list; `name[key]` an object.

    Raises:
        TooLarge: more parameters than any call has.
    """
    parameters: Parameters = {}
    if not query:
        return parameters
    pairs = query.split("&")
    if len(pairs) > MAX_PARAMETERS:
        raise TooLarge(f"the query has {len(pairs)} parameters; at most {MAX_PARAMETERS} are taken")
    for pair in pairs:
        name, _, value = pair.partition("=")
        if "%" in name or "+" in name:
            name = unquote_plus(name)
        if "%" in value or "+" in value:
            value = unquote_plus(value)
        place = parameters
        if name.endswith("]") and (bracket := name.find("[")) > 0:
            nested = parameters.setdefault(name[:bracket], {})
            if isinstance(nested, dict):
                place, name = nested, name[bracket + 1 : -1]
        if name not in place:
            place[name] = value
        elif isinstance(place[name], list):
            place[name].append(value)
        else:
            place[name] = [place[name], value]
    return parameters
