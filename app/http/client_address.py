"""The shopper's IP address, through proxies that are trusted. It is compared, and never stored."""

from __future__ import annotations

import ipaddress
from typing import Protocol

from multidict import CIMultiDictProxy


class Sender(Protocol):
    """A request, whatever it is handed about as."""

    @property
    def remote(self) -> str | None: ...

    @property
    def headers(self) -> CIMultiDictProxy[str]: ...


class ClientAddress:
    """
    Args:
        trusted_proxies: networks (CIDR, comma-separated) whose X-Forwarded-For is believed.

    Raises:
        ValueError: `trusted_proxies` holds what is no network.
    """

    def __init__(self, trusted_proxies: str = "") -> None:
        self._trusted = tuple(
            ipaddress.ip_network(part.strip(), strict=False)
            for part in trusted_proxies.split(",")
            if part.strip()
        )

    def __call__(self, request: Sender) -> str | None:
        """The nearest address that is no trusted proxy's; None where there is none (a socket)."""
        address = request.remote or None
        if not self._trusted:
            return address
        hops = [
            hop.strip()
            for header in request.headers.getall("X-Forwarded-For", ())
            for hop in header.split(",")
        ]
        while hops and self._is_trusted(address):
            address = hops.pop()
        return address

    def _is_trusted(self, address: str | None) -> bool:
        if address is None:
            return True  # a Unix socket: the proxy is on this machine
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._trusted)
