"""Responses with a finished job's results: the ZIP, ranges of it, a redirect to S3, or one file out of it."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from fastapi.responses import RedirectResponse, Response, StreamingResponse

from pipeline.clients import environment, s3
from steps.runtime.errors import IncompleteResults

CHUNK = 1 << 18
LINK_SECONDS = 3600
RANGE = re.compile("bytes=([0-9]*)-([0-9]*)", re.IGNORECASE)
MAX_POSITION = 10**18  # replaces larger numbers: above the size of any object


def download(key: str, head: dict[str, Any], name: str, range_header: str, if_range: str) -> Response:
    """A streaming response with an S3 object. head: its HeadObject response; range_header, if_range: of the request. 206 for a
    range, 416 for one outside the object."""
    etag, size = head["ETag"], int(head["ContentLength"])
    headers = {
        "Content-Disposition": f"attachment; filename={name}",
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Cache-Control": "private, no-cache",
    }
    selected = None if if_range and if_range != etag else byte_range(range_header, size)
    if selected == ():
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{size}"})
    range_option = {}
    if selected:
        range_option["Range"] = f"bytes={selected[0]}-{selected[1]}"
        headers["Content-Range"] = f"bytes {selected[0]}-{selected[1]}/{size}"
        size = selected[1] - selected[0] + 1
    body = s3.client().get_object(Bucket=s3.bucket(), Key=key, IfMatch=etag, **range_option)["Body"]
    headers["Content-Length"] = str(size)
    return StreamingResponse(chunks(body), 206 if selected else 200, headers, "application/zip")


def byte_range(range_header: str, size: int) -> tuple[int, int] | tuple[()] | None:
    """(first, last) byte of a Range header; None for the whole object; () for an unsatisfiable range. Invalid headers are ignored
    (RFC 9110, 14.1.1 and 14.2), and so are multiple ranges."""
    match = RANGE.fullmatch(range_header.strip())
    if not match or not any(match.groups()):
        return None
    first, last = map(_position, match.groups())
    if first is None:
        start, end = max(0, size - (last or 0)), size - 1
    elif last is not None and last < first:
        return None
    else:
        start, end = first, size - 1 if last is None else min(size - 1, last)
    return (start, end) if start <= end else ()


def _position(digits: str) -> int | None:
    digits = digits.lstrip("0") or digits[:1]
    return min(MAX_POSITION, int(digits[:20])) if digits else None


def chunks(body: Any) -> Iterator[bytes]:
    """Chunks of an S3 response body; closes it also when the client disconnects."""
    try:
        yield from body.iter_chunks(CHUNK)
    finally:
        body.close()


def redirect(key: str, name: str) -> Response:
    """307 to a presigned URL, valid for LINK_SECONDS. Environment: S3_PUBLIC_ENDPOINT, if clients cannot use S3_ENDPOINT."""
    parameters = {"Bucket": s3.bucket(), "Key": key, "ResponseContentDisposition": f"attachment; filename={name}"}
    store = s3.client(environment.store().s3_public_endpoint)
    link = store.generate_presigned_url("get_object", parameters, LINK_SECONDS)
    return RedirectResponse(link, 307)


class ObjectReader(io.RawIOBase):
    """Seekable file interface to an S3 object, for zipfile. Each read is a range request."""

    def __init__(self, key: str, size: int) -> None:
        self.key, self.size, self.position = key, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = max(0, offset + (0, self.position, self.size)[whence])
        return self.position

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: Any) -> int:
        if self.position >= self.size:
            return 0
        last = min(self.size, self.position + len(buffer)) - 1
        data = s3.read(self.key, Range=f"bytes={self.position}-{last}") or b""
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def member(key: str, size: int, name: str) -> tuple[Iterator[bytes], int]:
    """Chunks and size of a file in a ZIP in S3. key, size: of the ZIP. Raises IncompleteResults where it is missing."""
    try:
        archive = zipfile.ZipFile(io.BufferedReader(ObjectReader(key, size), CHUNK))
        info = archive.getinfo(name)
    except (KeyError, zipfile.BadZipFile):
        raise IncompleteResults(f"The result holds no {name}.", missing=[name]) from None
    return _unpacked(archive, info), info.file_size


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    with archive, archive.open(info) as file:
        while piece := file.read(CHUNK):
            yield piece
