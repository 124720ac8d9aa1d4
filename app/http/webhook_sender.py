"""Sends messages to webhooks. A merchant chooses the address, so it must not lead inside: only
addresses on the public internet are called, redirects are not followed, and little is read."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

MAX_ANSWER: Final = 4_096
"""Bytes of the answer that are read; nobody looks at them."""


class InternalAddressError(OSError):
    """The host's address is not on the public internet."""


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet, whatever it is wrapped in."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # IPv4 behind a translator
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast


class PublicResolver(AbstractResolver):
    """Names to public addresses. What was checked here is what is connected to: the name is not
    looked up again."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        public = [result for result in found if is_public(result["host"])]
        if not public:
            raise InternalAddressError(f"{host} is no host on the public internet")
        return public

    async def close(self) -> None:
        await self._resolver.close()


class HttpWebhookSender:
    """
    Args:
        allow_internal: call any address; for tests and private networks.
        timeout: seconds for one message.
    """

    def __init__(self, *, allow_internal: bool = False, timeout: float = 10.0) -> None:
        self._allow_internal = allow_internal
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None

    async def send(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        """See `app.services.webhooks.WebhookSender`."""
        host = urlsplit(url).hostname or ""
        if not self._allow_internal and _is_address(host) and not is_public(host):
            raise InternalAddressError(f"{host} is no host on the public internet")
        try:
            async with self._open().post(
                url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                await answer.content.read(MAX_ANSWER)
                return answer.status
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            # The reason alone: an error's text may hold what the merchant need not know.
            if isinstance(error.__cause__ or error.__context__, InternalAddressError):
                raise InternalAddressError(f"{host} is no host on the public internet") from None
            raise OSError(f"no answer: {type(error).__name__}") from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            resolver = None if self._allow_internal else PublicResolver()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, limit=20),
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
