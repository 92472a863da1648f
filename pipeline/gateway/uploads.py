"""Twelve files of a multipart request, each put into S3 as it arrives: at most one on disk per request, few buffers in memory."""

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

FIELDS = {"views": "multi_views", "depth_renders": "depth_renders"}  # as clients call them -> as sets do
CAMERAS = "cameras"
MOST_TEXT = 65536
MOST_PARTS = 40
MOST_HEADER = 8192  # of one line
MOST_BODY = 12 * input_set.MAX_BYTES + (2 << 20)
IDLE_SECONDS = 60.0
IN_MEMORY = 65536  # of a file; the rest goes to disk


@dataclass
class Part:
    """One part of the request. size counts on where the bytes are no longer kept."""

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
        return (
            input_set.MAX_BYTES if self.name in FIELDS else input_set.MAX_CAMERAS_BYTES if self.is_file else MOST_TEXT
        )

    def add(self, data: bytes) -> None:
        self.size += len(data)
        self.head += data[: max(0, 64 - len(self.head))]
        if self.size <= self.limit:
            self.file.write(data)

    def text(self) -> str:
        self.file.seek(0)
        return self.file.read().decode("utf-8", "replace")


class Parser:
    """Cuts a body into parts; whole: those that have ended and that nobody has taken yet."""

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise ValidationFailed(
                "The request is not multipart/form-data.", "Send six files `views` and six files `depth_renders`."
            )
        self.part: Part | None = None
        self.header, self.value = b"", b""
        self.whole: list[Part] = []
        self.count, self.ended = 0, False
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
        if self.count > MOST_PARTS:
            raise InvalidFileCount(f"The request has more than {MOST_PARTS} parts.")
        self.part = Part()

    def close(self) -> None:
        """Lets go of what nobody will take any more."""
        for part in [*self.whole, *([self.part] if self.part else [])]:
            part.file.close()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self.part:
            self.part.add(data[start:end])

    def _part_end(self) -> None:
        if self.part:
            self.whole.append(self.part)
        self.part = None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self.header += data[start:end]
        self._check_header()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self.header) + len(self.value) > MOST_HEADER:
            raise ValidationFailed(f"A part of the request has a header of more than {MOST_HEADER} bytes.")

    def _header_end(self) -> None:
        if self.part and self.header.lower() == b"content-disposition":
            options = parse_options_header(self.value)[1]
            self.part.name = options.get(b"name", b"").decode("utf-8", "replace")
            name = options.get(b"filename")
            self.part.filename = None if name is None else name.decode("utf-8", "replace")
        self.header, self.value = b"", b""

    def _end(self) -> None:
        self.ended = True


@dataclass
class Set:
    """What has arrived for a job. folder: below inputs/; keys: per field, where each file was put, in the order of the parts."""

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


async def receive(stream: AsyncIterator[bytes], content_type: str, folder: str) -> Set:
    """Reads a request to its end. Faults of single files are collected: `settle` raises them all at once."""
    arrived = Set(folder)
    with contextlib.closing(Parser(content_type)) as parser:
        async for data in flowing(stream):
            arrived.total += len(data)
            if arrived.total > MOST_BODY:
                raise FileTooLarge(f"The request is larger than {MOST_BODY / 1e6:.0f} MB.")
            parser.feed(data)
            while parser.whole:
                await _place(parser.whole.pop(0), arrived)
    if not parser.ended:
        raise ValidationFailed("The request ends before its last boundary.", "Send it again, whole.")
    return arrived


async def flowing(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes, from a client that does not keep others waiting by sending nothing."""
    while True:
        try:
            yield await asyncio.wait_for(anext(stream), IDLE_SECONDS)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise ValidationFailed(f"Nothing arrived for {IDLE_SECONDS:.0f} s.", "Send the request again.") from None


async def _place(part: Part, arrived: Set) -> None:
    with part.file:
        if not part.is_file:
            if part.size > MOST_TEXT:
                raise FileTooLarge(f"The field {part.name[:100]!r} is longer than {MOST_TEXT} bytes.")
            arrived.texts[part.name] = part.text()
            return
        field_name = FIELDS.get(part.name, CAMERAS)
        shown = input_set.shown(part.filename or part.name)[:200]
        try:
            shape = _checked(part)
        except BadInput as error:
            arrived.faults.append(Fault(error, field_name, _count(part, arrived), shown))
            shape, part.size = None, 0
        key = _key(part, arrived)
        if shape is not None:
            part.file.seek(0)
            await asyncio.to_thread(s3.put, part.file, key, ContentLength=part.size)
        if part.name in FIELDS:
            arrived.keys[part.name].append(key)
            arrived.names[part.name].append(part.filename or "")
            arrived.shapes[part.name].append(shape or (0, 0))


def _count(part: Part, arrived: Set) -> int | None:
    return len(arrived.keys[part.name]) if part.name in FIELDS else None


def _checked(part: Part) -> tuple[int, int]:
    """Width and height. Raises what is wrong with the file, as far as its size and first bytes tell."""
    if part.size > part.limit:
        raise FileTooLarge(f"has {part.size / 1e6:.1f} MB; at most {part.limit / 1e6:.0f} MB are read")
    if part.name == CAMERAS:
        return 0, 0
    header = png.peek(part.head)
    return header.width, header.height


def _key(part: Part, arrived: Set) -> str:
    """By the view that its name tells, else by its place."""
    if part.name == CAMERAS:
        return f"{arrived.base}/cameras.json"
    index = view_of(part.name, part.filename or "")
    place = len(arrived.keys[part.name])
    name = f"{place:03d}.part" if index is None else f"{VIEW_NAMES[index]}.png"
    key = f"{arrived.base}/{FIELDS[part.name]}/{name}"
    return f"{key}.{place}.part" if key in arrived.keys[part.name] else key


def view_of(field_name: str, filename: str) -> int | None:
    """The view that a client's file name tells. Folders in front of it do not matter."""
    return input_set.view_index(FIELDS[field_name], filename.replace("\\", "/").rpartition("/")[2], VIEW_NAMES)


async def settle(arrived: Set) -> str:
    """Gives every file its final name, unless it has it. Returns the set's address. Raises BadInput with every fault."""
    input_checks.raise_all([*_counts(arrived), *arrived.faults, *_ambiguous(arrived), *_proportions(arrived)])
    for name, keys in arrived.keys.items():
        given = arrived.names[name]
        if all(view_of(name, each) is not None for each in given):
            continue
        first = input_set.first_number(FIELDS[name], given, VIEW_NAMES)  # kept, for validate to tell
        for index, key in zip(_order(arrived, name), keys, strict=True):
            await asyncio.to_thread(_rename, key, f"{arrived.base}/{FIELDS[name]}/view_{index + first}.png")
    return f"s3://{s3.bucket()}/{arrived.base}"


def _rename(key: str, final: str) -> None:
    bucket = s3.bucket()
    s3.client().copy_object(Bucket=bucket, Key=final, CopySource={"Bucket": bucket, "Key": key})
    s3.client().delete_object(Bucket=bucket, Key=key)


def _counts(arrived: Set) -> list[Fault]:
    wrong = {name: len(keys) for name, keys in arrived.keys.items() if len(keys) != len(VIEW_NAMES)}
    return [
        Fault(
            InvalidFileCount(f"{FIELDS[name]}: {count} files arrived instead of {len(VIEW_NAMES)}"),
            FIELDS[name],
            None,
            "",
        )
        for name, count in wrong.items()
    ]


def _ambiguous(arrived: Set) -> list[Fault]:
    """Six names that each tell a view, and two of them the same one."""
    faults = []
    for name, given in arrived.names.items():
        told = input_set.view_indices(FIELDS[name], given, VIEW_NAMES)
        for place, index in enumerate(told):
            if index is not None and None not in told and index in told[:place]:
                error = ValidationFailed(f"stands for the view {VIEW_NAMES[index]}, as another file does")
                faults.append(Fault(error, FIELDS[name], index, input_set.shown(given[place])[:200]))
    return faults


def _proportions(arrived: Set) -> list[Fault]:
    """As `input_checks.check_pairs`, where the files come in the same order: the whole check is validate's. A picture may lie on
    its side, with a note in it of how it is to be turned."""
    if arrived.faults or _counts(arrived):
        return []
    faults = []
    ordered = {name: dict(zip(_order(arrived, name), shapes, strict=True)) for name, shapes in arrived.shapes.items()}
    for index, (w, h) in sorted(ordered["views"].items()):
        dw, dh = ordered["depth_renders"].get(index, (w, h))
        if min(abs(w * dh - h * dw), abs(h * dh - w * dw)) > input_checks.ASPECT_TOLERANCE * w * dh:
            error = ValidationFailed(f"has {dw} x {dh} pixels, while the view has {w} x {h}: their proportions differ")
            faults.append(Fault(error, "depth_renders", index, f"depth_renders/{VIEW_NAMES[index]}"))
    return faults


def _order(arrived: Set, name: str) -> list[int]:
    """Which view each part is."""
    told = input_set.view_indices(FIELDS[name], arrived.names[name], VIEW_NAMES)
    return [i for i in told if i is not None] if None not in told else list(range(len(told)))
