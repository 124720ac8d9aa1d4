"""Whose traffic a call is: a shopper's, a robot's, or the merchant's own."""

from __future__ import annotations

import enum
import ipaddress
import re
from typing import Final

from app.domain.merchant import TrackingSettings

ROBOT_AGENTS: Final = (
    # Crawlers that say what they are. HTTP libraries are not here (back ends and apps send events
    # with them), nor headless browsers (with which a shop tests its own pages): a merchant that
    # wants them kept apart adds them to `robot_agents`.
    r"bot\b",
    r"bots?/",
    r"bot[;)+ _-]",
    "crawl",
    "spider",
    "slurp",
    "scrapy",
    "httrack",
    "facebookexternalhit",
    "facebookcatalog",
    "mediapartners-google",
    "adsbot",
    "feedfetcher",
    "google-inspectiontool",
    "googleother",
    "storebot-google",
    "google-extended",
    "bingpreview",
    "chrome-lighthouse",
    "gptbot",
    "chatgpt-user",
    "ccbot",
    "claudebot",
    "claude-web",
    "perplexity",
    "bytespider",
    "ia_archiver",
    "heritrix",
    "archive.org",
    "pingdom",
    "uptimerobot",
    "statuscake",
    "site24x7",
    "datadogsynthetics",
    "newrelicpinger",
    "gtmetrix",
    "whatsapp/",
    "skypeuripreview",
    "slack-imgproxy",
    "embedly",
    "validator",
    "linkcheck",
    "screaming frog",
    "phantomjs",
)


_AGENTS: Final = 2048  # User-Agents whose answer is kept
_MAX_AGENT: Final = 400  # characters of one


class Traffic(enum.StrEnum):
    SHOPPER = "shopper"
    ROBOT = "robot"
    INTERNAL = "internal"


class TrafficRules:
    """A merchant's settings, ready to be asked. Made once: it compiles.

    `wrong_networks` are those of `internal_ips` that are neither an address nor a network.
    """

    def __init__(self, settings: TrackingSettings) -> None:
        parts = (
            *ROBOT_AGENTS,
            *(re.escape(part.lower()) for part in settings.robot_agents if part),
        )
        self._robot = re.compile("|".join(parts)).search
        self._agents: dict[str, bool] = {}  # those seen lately: a shop sees few
        self._users = frozenset(settings.internal_user_ids)
        networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        wrong = []
        for text in settings.internal_ips:
            try:
                networks.append(ipaddress.ip_network(text, strict=False))
            except ValueError:
                wrong.append(text)
        self._networks = tuple(networks)
        self.wrong_networks = tuple(wrong)

    def classify(self, agent: str, address: str | None, user_id: str | None) -> Traffic:
        """`agent`: the User-Agent; `address`: the shopper's IP address, where it is known."""
        if agent and self._is_robot(agent):
            return Traffic.ROBOT
        if user_id is not None and user_id in self._users:
            return Traffic.INTERNAL
        if self._networks and address is not None:
            try:
                ip = ipaddress.ip_address(address)
            except ValueError:
                return Traffic.SHOPPER
            if any(ip in network for network in self._networks):
                return Traffic.INTERNAL
        return Traffic.SHOPPER

    def _is_robot(self, agent: str) -> bool:
        known = self._agents.get(agent)
        if known is None:
            known = self._robot(agent.lower()) is not None
            if len(agent) <= _MAX_AGENT:
                if len(self._agents) >= _AGENTS:
                    self._agents.clear()
                self._agents[agent] = known
        return known


def may_track(settings: TrackingSettings, consent: bool | None, *, refusal_signal: bool) -> bool:
    """Whether a shopper's event may be kept.

    `consent` is what the event itself says (None: nothing); it outweighs `refusal_signal`, which
    is what the browser says of all sites (`Sec-GPC: 1`, `DNT: 1`).
    """
    if consent is not None:
        return consent
    if settings.require_consent:
        return False
    return not (refusal_signal and settings.privacy_signals)
