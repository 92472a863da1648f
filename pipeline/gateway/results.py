"""What a finished job left in S3, on its way to a client: whole, in ranges, or a file out of the ZIP."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from fastapi.responses import RedirectResponse, Response, StreamingResponse

from pipeline.clients import s3
from steps.runtime.errors import IncompleteResults

CHUNK = 1 << 18
LINK_SECONDS = 3600
RANGE = re.compile("bytes=([0-9]*)-([0-9]*)", re.IGNORECASE)
BEYOND = 10**18  # stands for every larger number: no object has so many bytes


def download(key: str, head: dict[str, Any], name: str, wanted: str, if_range: str) -> Response:
    """An object as an attachment. wanted: the Range header; if_range: only where the ETag is still this."""
    etag, size = head["ETag"], int(head["ContentLength"])
    headers = {
        "Content-Disposition": f"attachment; filename={name}",
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Cache-Control": "private, no-cache",
    }
    part = None if if_range and if_range != etag else span(wanted, size)
    if part == ():
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    more = {}
    if part:
        more["Range"] = f"bytes={part[0]}-{part[1]}"
        headers["Content-Range"] = f"bytes {part[0]}-{part[1]}/{size}"
        size = part[1] - part[0] + 1
    body = s3.client().get_object(Bucket=s3.bucket(), Key=key, IfMatch=etag, **more)["Body"]
    headers["Content-Length"] = str(size)
    return StreamingResponse(pieces(body), 206 if part else 200, headers, "application/zip")


def span(wanted: str, size: int) -> tuple[int, int] | tuple[()] | None:
    """First and last byte of a Range header; None for the whole; () where nothing lies in it. What is no valid range is ignored,
    as RFC 9110 has it (14.1.1, 14.2), and so are several ranges."""
    found = RANGE.fullmatch(wanted.strip())
    if not found or not any(found.groups()):
        return None
    first, last = map(_position, found.groups())
    if first is None:
        start, end = max(0, size - (last or 0)), size - 1
    elif last is not None and last < first:
        return None
    else:
        start, end = first, size - 1 if last is None else min(size - 1, last)
    return (start, end) if start <= end else ()


def _position(digits: str) -> int | None:
    digits = digits.lstrip("0") or digits[:1]
    return min(BEYOND, int(digits[:20])) if digits else None


def pieces(body: Any) -> Iterator[bytes]:
    """An S3 body, piece by piece; closed whatever becomes of the client."""
    try:
        yield from body.iter_chunks(CHUNK)
    finally:
        body.close()


def redirect(key: str, name: str) -> Response:
    """A link that S3 itself answers, for an hour. S3_PUBLIC_ENDPOINT: where clients reach the store, if not at S3_ENDPOINT."""
    given = {"Bucket": s3.bucket(), "Key": key, "ResponseContentDisposition": f"attachment; filename={name}"}
    link = s3.client(os.environ.get("S3_PUBLIC_ENDPOINT", "")).generate_presigned_url("get_object", given, LINK_SECONDS)
    return RedirectResponse(link, 307)


class Remote(io.RawIOBase):
    """An object that can be read from anywhere, as zipfile does; it fetches a quarter of a MiB at a time."""

    def __init__(self, key: str, size: int) -> None:
        self.key, self.size, self.at = key, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = max(0, offset + (0, self.at, self.size)[whence])
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        if self.at >= self.size:
            return 0
        last = min(self.size, self.at + len(buffer)) - 1
        data = s3.read(self.key, Range=f"bytes={self.at}-{last}") or b""
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def member(key: str, size: int, name: str) -> tuple[Iterator[bytes], int]:
    """A file of result.zip, and its size. Raises IncompleteResults where it has none of that name, or is no ZIP."""
    try:
        archive = zipfile.ZipFile(io.BufferedReader(Remote(key, size), CHUNK))
        info = archive.getinfo(name)
    except (KeyError, zipfile.BadZipFile):
        raise IncompleteResults(f"The result holds no {name}.", missing=[name]) from None
    return _unpacked(archive, info), info.file_size


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive, archive.open(info) as file:
        while piece := file.read(CHUNK):
            yield piece
