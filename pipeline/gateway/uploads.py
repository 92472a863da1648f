"""Streams a multipart upload of twelve files to S3: at most one file per request on disk, and small buffers in memory.

python-multipart parses it. What Starlette's `form()` does around that parser is own code here, since it would hold all twelve
files before the first is checked."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import IO, Any

from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from pipeline.clients import s3
from steps.io import input_checks, input_set, png
from steps.io.input_checks import Fault
from steps.runtime.contract import VIEW_NAMES
from steps.runtime.errors import BadInput, FileTooLarge, InvalidFileCount, ValidationFailed

FIELDS = {"views": "multi_views", "depth_renders": "depth_renders"}  # form field -> folder of the input set
CAMERAS = "cameras"
MAX_TEXT = 65536
MAX_PARTS = 40
MAX_HEADER = 8192  # bytes of one header line
MAX_BODY = 12 * input_set.MAX_BYTES + (2 << 20)
IDLE_SECONDS = 60.0
IN_MEMORY = 65536  # bytes of a file in memory; larger files are spooled to disk


@dataclass
class Part:
    """One part of the form. size: bytes received, also those above `limit`, which are discarded; head: first 64 bytes."""

    name: str = ""
    filename: str | None = None
    size: int = 0
    head: bytes = b""
    file: IO[bytes] = field(default_factory=lambda: tempfile.SpooledTemporaryFile(IN_MEMORY))  # noqa: SIM115

    @property
    def is_file(self) -> bool:
        return self.name in FIELDS or self.name == CAMERAS

    @property
    def limit(self) -> int:
        return input_set.MAX_BYTES if self.name in FIELDS else input_set.MAX_CAMERAS_BYTES if self.is_file else MAX_TEXT

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self.head += data[: max(0, 64 - len(self.head))]
        if self.size <= self.limit:
            self.file.write(data)

    def text(self) -> str:
        self.file.seek(0)
        return self.file.read().decode("utf-8", "replace")


class FormParser:
    """Incremental multipart parser. complete_parts: finished parts, to be removed by the caller."""

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise ValidationFailed(
                "The request is not multipart/form-data.", "Send six files `views` and six files `depth_renders`."
            )
        self.part: Part | None = None
        self.header, self.value = b"", b""
        self.complete_parts: list[Part] = []
        self.count, self.has_ended = 0, False
        names = ("part_begin", "part_data", "part_end", "header_field", "header_value", "header_end", "end")
        callbacks: Any = {f"on_{name}": getattr(self, f"_{name}") for name in names}
        self.parser = MultipartParser(options[b"boundary"], callbacks)

    def feed(self, data: bytes) -> None:
        try:
            self.parser.write(data)
        except MultipartParseError as error:
            raise ValidationFailed(f"The request is not valid multipart/form-data: {error}.") from None

    def _part_begin(self) -> None:
        self.count += 1
        if self.count > MAX_PARTS:
            raise InvalidFileCount(f"The request has more than {MAX_PARTS} parts.")
        self.part = Part()

    def close(self) -> None:
        """Closes the files of all remaining parts."""
        for part in [*self.complete_parts, *([self.part] if self.part else [])]:
            part.file.close()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self.part:
            self.part.add(data[start:end])

    def _part_end(self) -> None:
        if self.part:
            self.complete_parts.append(self.part)
        self.part = None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self.header += data[start:end]
        self._check_header()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self.header) + len(self.value) > MAX_HEADER:
            raise ValidationFailed(f"A part of the request has a header of more than {MAX_HEADER} bytes.")

    def _header_end(self) -> None:
        if self.part and self.header.lower() == b"content-disposition":
            options = parse_options_header(self.value)[1]
            self.part.name = options.get(b"name", b"").decode("utf-8", "replace")
            name = options.get(b"filename")
            self.part.filename = None if name is None else name.decode("utf-8", "replace")
        self.header, self.value = b"", b""

    def _end(self) -> None:
        self.has_ended = True


@dataclass
class Upload:
    """Files and fields received so far. folder: below inputs/; keys, names, shapes (width, height): by form field, in the order
    of the parts; texts: text fields; total: bytes."""

    folder: str
    keys: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in FIELDS})
    names: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in FIELDS})
    shapes: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {name: [] for name in FIELDS})
    texts: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    total: int = 0

    @property
    def base(self) -> str:
        return f"{s3.INPUTS}{self.folder}"


async def receive(stream: AsyncIterator[bytes], content_type: str, folder: str) -> Upload:
    """Reads a form and stores its files in S3. Faults of single files are collected; `finalize` raises them. Raises BadInput."""
    upload = Upload(folder)
    with contextlib.closing(FormParser(content_type)) as parser:
        async for data in with_idle_timeout(stream):
            upload.total += len(data)
            if upload.total > MAX_BODY:
                raise FileTooLarge(f"The request is larger than {MAX_BODY / 1e6:.0f} MB.")
            parser.feed(data)
            while parser.complete_parts:
                await _store_part(parser.complete_parts.pop(0), upload)
    if not parser.has_ended:
        raise ValidationFailed("The request ends before its last boundary.", "Send it again, whole.")
    return upload


async def with_idle_timeout(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The stream; raises ValidationFailed after IDLE_SECONDS without data, so that idle clients do not hold a slot."""
    while True:
        try:
            yield await asyncio.wait_for(anext(stream), IDLE_SECONDS)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise ValidationFailed(f"Nothing arrived for {IDLE_SECONDS:.0f} s.", "Send the request again.") from None


async def _store_part(part: Part, upload: Upload) -> None:
    with part.file:
        if not part.is_file:
            if part.size > MAX_TEXT:
                raise FileTooLarge(f"The field {part.name[:100]!r} is longer than {MAX_TEXT} bytes.")
            upload.texts[part.name] = part.text()
            return
        field_name = FIELDS.get(part.name, CAMERAS)
        label = input_set.sanitize(part.filename or part.name)[:200]
        try:
            shape = _checked(part)
        except BadInput as error:
            upload.faults.append(Fault(error, field_name, _count(part, upload), label))
            shape, part.size = None, 0
        key = _key(part, upload)
        if shape is not None:
            part.file.seek(0)
            await asyncio.to_thread(s3.put, part.file, key, ContentLength=part.size)
        if part.name in FIELDS:
            upload.keys[part.name].append(key)
            upload.names[part.name].append(part.filename or "")
            upload.shapes[part.name].append(shape or (0, 0))


def _count(part: Part, upload: Upload) -> int | None:
    return len(upload.keys[part.name]) if part.name in FIELDS else None


def _checked(part: Part) -> tuple[int, int]:
    """(width, height) of a picture; (0, 0) for cameras. Raises BadInput for its size or PNG header."""
    if part.size > part.limit:
        raise FileTooLarge(f"has {part.size / 1e6:.1f} MB; at most {part.limit / 1e6:.0f} MB are read")
    if part.name == CAMERAS:
        return 0, 0
    header = png.peek(part.head)
    return header.width, header.height


def _key(part: Part, upload: Upload) -> str:
    """S3 key of a part: by the view in its file name, else temporary, by position."""
    if part.name == CAMERAS:
        return f"{upload.base}/cameras.json"
    index = view_of(part.name, part.filename or "")
    position = len(upload.keys[part.name])
    name = f"{position:03d}.part" if index is None else f"{VIEW_NAMES[index]}.png"
    key = f"{upload.base}/{FIELDS[part.name]}/{name}"
    return f"{key}.{position}.part" if key in upload.keys[part.name] else key


def view_of(field_name: str, filename: str) -> int | None:
    """Index of the view in a file name, ignoring folders; None where it names none."""
    return input_set.view_index(FIELDS[field_name], filename.replace("\\", "/").rpartition("/")[2], VIEW_NAMES)


async def finalize(upload: Upload) -> str:
    """Renames files to their final keys and returns the set's s3:// URL. Raises BadInput with all faults."""
    input_checks.raise_all([*_counts(upload), *upload.faults, *_duplicate_views(upload), *_proportions(upload)])
    for name, keys in upload.keys.items():
        file_names = upload.names[name]
        if all(view_of(name, file_name) is not None for file_name in file_names):
            continue
        first_number = input_set.first_number(FIELDS[name], file_names, VIEW_NAMES)  # kept: validate reports it
        for index, key in zip(_view_indices(upload, name), keys, strict=True):
            await asyncio.to_thread(_move_object, key, f"{upload.base}/{FIELDS[name]}/view_{index + first_number}.png")
    return f"s3://{s3.bucket()}/{upload.base}"


def _move_object(key: str, final: str) -> None:
    bucket = s3.bucket()
    s3.client().copy_object(Bucket=bucket, Key=final, CopySource={"Bucket": bucket, "Key": key})
    s3.client().delete_object(Bucket=bucket, Key=key)


def _counts(upload: Upload) -> list[Fault]:
    wrong = {name: len(keys) for name, keys in upload.keys.items() if len(keys) != len(VIEW_NAMES)}
    return [
        Fault(
            InvalidFileCount(f"{FIELDS[name]}: {count} files arrived instead of {len(VIEW_NAMES)}"),
            FIELDS[name],
            None,
            "",
        )
        for name, count in wrong.items()
    ]


def _duplicate_views(upload: Upload) -> list[Fault]:
    """Faults of files that name the same view, where all six name one."""
    faults = []
    for name, file_names in upload.names.items():
        indices = input_set.view_indices(FIELDS[name], file_names, VIEW_NAMES)
        for position, index in enumerate(indices):
            if index is not None and None not in indices and index in indices[:position]:
                error = ValidationFailed(f"stands for the view {VIEW_NAMES[index]}, as another file does")
                faults.append(Fault(error, FIELDS[name], index, input_set.sanitize(file_names[position])[:200]))
    return faults


def _proportions(upload: Upload) -> list[Fault]:
    """Faults of view and depth pairs with different aspect ratios; validate repeats the check of `input_checks.check_pairs` in
    full. Width and height may be exchanged: a picture may have an EXIF orientation."""
    if upload.faults or _counts(upload):
        return []
    faults = []
    ordered = {
        name: dict(zip(_view_indices(upload, name), shapes, strict=True)) for name, shapes in upload.shapes.items()
    }
    for index, (w, h) in sorted(ordered["views"].items()):
        dw, dh = ordered["depth_renders"].get(index, (w, h))
        if min(abs(w * dh - h * dw), abs(h * dh - w * dw)) > input_checks.ASPECT_TOLERANCE * w * dh:
            error = ValidationFailed(f"has {dw} x {dh} pixels, while the view has {w} x {h}: their proportions differ")
            faults.append(Fault(error, "depth_renders", index, f"depth_renders/{VIEW_NAMES[index]}"))
    return faults


def _view_indices(upload: Upload, name: str) -> list[int]:
    """View index of each part: by file name if all name one, else by position."""
    indices = input_set.view_indices(FIELDS[name], upload.names[name], VIEW_NAMES)
    return [i for i in indices if i is not None] if None not in indices else list(range(len(indices)))
