"""Redis behind TLS: both connections verify who they speak to."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import redis

from app.domain.errors import Unavailable
from app.redis.coalescing import CoalescingRedis
from app.redis.connection import RedisConnection


class Tls(NamedTuple):
    port: int
    certificate: Path

    def url(self, ca: Path | None) -> str:
        query = "" if ca is None else f"?ssl_ca_certs={quote(str(ca))}"
        return f"rediss://localhost:{self.port}/0{query}"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A key, and a certificate for localhost signed by itself."""
    key, made = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-days", "2"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(made)),
        ],
        check=True,
        capture_output=True,
    )
    return key, made


@pytest.fixture
async def tls(redis_url: str, tmp_path: Path) -> AsyncIterator[Tls]:
    """A door with TLS before the real server."""
    key, made = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    where: dict[str, Any] = redis.Redis.from_url(redis_url).connection_pool.connection_kwargs

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "path" in where:
            inner = await asyncio.open_unix_connection(where["path"])
        else:
            inner = await asyncio.open_connection(where["host"], where["port"])
        await asyncio.gather(pass_on(reader, inner[1]), pass_on(inner[0], writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    yield Tls(server.sockets[0].getsockname()[1], made)
    server.close()


async def test_a_certificate_that_is_trusted_is_enough(tls: Tls) -> None:
    shared = CoalescingRedis(tls.url(tls.certificate))
    assert await shared.call([("PING",)]) == [b"PONG"]
    await shared.close()
    pooled = RedisConnection(tls.url(tls.certificate))
    await pooled.ping()
    await pooled.close()


async def test_one_that_nobody_signed_is_refused(tls: Tls) -> None:
    shared = CoalescingRedis(tls.url(None))
    with pytest.raises(Unavailable):
        await shared.call([("PING",)])
    await shared.close()
    pooled = RedisConnection(tls.url(None))
    with pytest.raises(Unavailable):
        await pooled.ping()
    await pooled.close()
