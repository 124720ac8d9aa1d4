"""A fake of an S3-compatible object store: buckets in memory, path-style addresses, no signature is
looked at. It knows what fsspec's s3fs asks for, and nothing of AWS."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from xml.sax.saxutils import escape

from aiohttp import web

XML = '<?xml version="1.0" encoding="UTF-8"?>'


class FakeObjectStore:
    """`objects` by bucket and key."""

    def __init__(self, *buckets: str) -> None:
        self.objects: dict[str, dict[str, bytes]] = {bucket: {} for bucket in buckets}
        self.calls: list[str] = []
        self.application = web.Application(client_max_size=1 << 30)
        self.application.router.add_route("*", "/{bucket}", self.bucket)
        self.application.router.add_route("*", "/{bucket}/", self.bucket)
        self.application.router.add_route("*", "/{bucket}/{key:.+}", self.key)

    async def bucket(self, request: web.Request) -> web.Response:
        self.calls.append(f"{request.method} {request.path}")
        name = request.match_info["bucket"]
        if name not in self.objects:
            return _error(404, "NoSuchBucket")
        if request.method == "POST" and "delete" in request.query:
            for key in re.findall(r"<Key>(.+?)</Key>", await _body(request)):
                self.objects[name].pop(key, None)
            return _xml("<DeleteResult></DeleteResult>")
        if request.method != "GET":
            return web.Response()
        prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
        files, folders = [], set()
        for key in sorted(self.objects[name]):
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
            else:
                files.append(key)
        listed = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(self.objects[name][key])}</Size>"
            f"<LastModified>{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
            f"<ETag>{_etag(self.objects[name][key])}</ETag></Contents>"
            for key in files
        )
        listed += "".join(
            f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>"
            for one in sorted(folders)
        )
        return _xml(
            f"<ListBucketResult><Name>{name}</Name><IsTruncated>false</IsTruncated>"
            f"<KeyCount>{len(files) + len(folders)}</KeyCount>{listed}</ListBucketResult>"
        )

    async def key(self, request: web.Request) -> web.Response:
        self.calls.append(f"{request.method} {request.path}")
        name, key = request.match_info["bucket"], request.match_info["key"]
        bucket = self.objects.get(name)
        if bucket is None:
            return _error(404, "NoSuchBucket")
        if request.method == "PUT":
            bucket[key] = _unchunked(await request.read(), request)
            return web.Response(headers={"ETag": _etag(bucket[key])})
        if request.method == "DELETE":
            bucket.pop(key, None)
            return web.Response(status=204)
        if key not in bucket:
            return _error(404, "NoSuchKey")
        body, headers = (
            bucket[key],
            {
                "ETag": _etag(bucket[key]),
                "Last-Modified": f"{datetime.now(UTC):%a, %d %b %Y %H:%M:%S GMT}",
                "Accept-Ranges": "bytes",
            },
        )
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if asked is None:
            return web.Response(body=body, headers=headers)
        start, end = int(asked[1]), int(asked[2] or len(body) - 1)
        part = body[start : end + 1]
        headers["Content-Range"] = f"bytes {start}-{start + len(part) - 1}/{len(body)}"
        return web.Response(status=206, body=part, headers=headers)


async def _body(request: web.Request) -> str:
    return _unchunked(await request.read(), request).decode()


def _unchunked(body: bytes, request: web.Request) -> bytes:
    """What was sent in chunks with checksums after them (Content-Encoding: aws-chunked)."""
    if "aws-chunked" not in request.headers.get("Content-Encoding", ""):
        return body
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        if not length:
            break
        whole, body = whole + body[:length], body[length + 2 :]
    return whole


def _etag(body: bytes) -> str:
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def _xml(text: str) -> web.Response:
    return web.Response(text=XML + text, content_type="application/xml")


def _error(status: int, code: str) -> web.Response:
    return web.Response(
        status=status,
        text=f"{XML}<Error><Code>{code}</Code><Message>{code}</Message></Error>",
        content_type="application/xml",
    )
