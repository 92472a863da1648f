"""Parts of the gateway without a cluster: multipart parser, ranges, tokens, rate limiter."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.gateway import results, tokens, uploads
from steps.runtime.errors import InvalidFileCount, ValidationFailed

BOUNDARY = "----boundary"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def body(*parts: tuple[str, str | None, bytes]) -> bytes:
    data = b""
    for name, filename, content in parts:
        filename_field = f'; filename="{filename}"' if filename is not None else ""
        data += (
            f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{filename_field}\r\n\r\n'.encode()
            + content
            + b"\r\n"
        )
    return data + f"--{BOUNDARY}--\r\n".encode()


def parsed(data: bytes, sizes: random.Random | None = None) -> list[tuple[str, str | None, int, bytes]]:
    parser, parsed_parts, place = uploads.FormParser(TYPE), [], 0
    while place < len(data):
        size = sizes.randint(1, 50) if sizes else len(data)
        parser.feed(data[place : place + size])
        place += size
        while parser.complete_parts:
            part = parser.complete_parts.pop(0)
            with part.file:
                part.file.seek(0)
                parsed_parts.append((part.name, part.filename, part.size, part.file.read()))
    assert parser.has_ended
    return parsed_parts


@pytest.mark.parametrize("seed", range(20))
def test_however_a_body_is_cut_its_parts_are_the_same(seed: int) -> None:
    chance = random.Random(seed)
    parts = [("views", f"x {i}.png", chance.randbytes(chance.randint(0, 400)) + b"\r\n--") for i in range(5)]
    data = body(*parts, ("model_type", None, b"both"))
    expected = [(n, f, len(c), c) for n, f, c in parts] + [("model_type", None, 4, b"both")]
    assert parsed(data) == parsed(data, chance) == expected


def test_a_part_beyond_its_limit_is_counted_and_not_kept() -> None:
    part = uploads.Part(name="options")
    with part.file:
        for _ in range(100):
            part.add(bytes(uploads.MAX_TEXT // 10))
        assert part.size > 9 * uploads.MAX_TEXT
        assert len(part.text()) <= uploads.MAX_TEXT


def test_a_body_of_too_many_parts_is_refused_early() -> None:
    with pytest.raises(InvalidFileCount), contextlib.closing(uploads.FormParser(TYPE)) as parser:
        parser.feed(body(*[("views", "a.png", b"x")] * (uploads.MAX_PARTS + 1)))


def test_a_client_that_sends_nothing_loses_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stuck() -> AsyncIterator[bytes]:
        yield b"--"
        await asyncio.sleep(60)

    monkeypatch.setattr(uploads, "IDLE_SECONDS", 0.05)
    with pytest.raises(ValidationFailed, match="Nothing arrived"):
        asyncio.run(uploads.receive(stuck(), TYPE, "abc12345"))


@pytest.mark.parametrize("content_type", ["", "text/plain", "multipart/form-data", "application/zip"])
def test_a_body_that_is_no_multipart_form_is_refused(content_type: str) -> None:
    with pytest.raises(ValidationFailed):
        uploads.FormParser(content_type)


@pytest.mark.parametrize("name", ["../../front.png", "..\\front.png", "/etc/front.png", "a/b/front.png"])
def test_folders_in_a_file_name_are_ignored(name: str) -> None:
    arrived = uploads.Upload("abc12345")
    part = uploads.Part("views", name)
    with part.file:
        key = uploads._key(part, arrived)
    assert key == "inputs/abc12345/multi_views/front.png"


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("", None),
        ("bytes=0-9", (0, 9)),
        ("bytes=90-", (90, 99)),
        ("bytes=-10", (90, 99)),
        ("bytes=0-1000", (0, 99)),
        ("bytes=100-", ()),
        ("bytes=-0", ()),
        ("bytes=5-2", None),
        ("bytes=100-99", None),
        ("bytes=100-101", ()),
        ("bytes=" + "9" * 5000 + "-", ()),
        ("bytes=0-" + "9" * 5000, (0, 99)),
        ("bytes=-" + "9" * 5000, (0, 99)),
        ("bytes=" + "0" * 5000 + "7-8", (7, 8)),
        ("Bytes=0-9", (0, 9)),
        ("bytes=٣-٤", None),
        ("bytes=1-2-3", None),
        ("bytes=0-1,5-6", None),
        ("bytes=-", None),
        ("items=0-1", None),
    ],
)
def test_ranges_as_rfc_9110_reads_them(header: str, span: object) -> None:
    assert results.byte_range(header, 100) == span


def test_a_token_is_known_by_its_digest_alone(tmp_path: Path) -> None:
    token, digest = tokens.new_token()
    (tmp_path / "alice").write_text(digest)
    (tmp_path / "operator").write_text(f"{tokens.digest('other')} all\n")
    (tmp_path / "..data").mkdir()
    known = tokens.Tokens(tmp_path)
    alice, operator = known.principal(f"Bearer {token}"), known.principal("bearer other")
    assert (
        alice and not alice.sees_all and alice.may_see("alice") and not alice.may_see("bob") and not alice.may_see("")
    )
    assert operator and operator.may_see("alice") and operator.may_see("")
    for wrong in ("", "Bearer", f"Basic {token}", f"Bearer {digest}", "Bearer ", f"Bearer {token}x"):
        assert known.principal(wrong) is None


def test_an_empty_token_folder_admits_nobody_and_no_folder_everybody(tmp_path: Path) -> None:
    assert tokens.Tokens(tmp_path).principal("Bearer x") is None
    assert tokens.Tokens(None).principal("") is tokens.ANONYMOUS


def test_the_rate_limiter_allows_bursts_of_a_minute_s_requests() -> None:
    rate_limiter = tokens.RateLimiter(60)
    assert [rate_limiter.wait("a") for _ in range(60)] == [0.0] * 60
    assert 0 < rate_limiter.wait("a") <= 1
    assert rate_limiter.wait("b") == 0.0


def test_a_job_request_s_options_are_text_and_numbers_alone() -> None:
    """`true` is not taken for 1. In a process of its own: the gateway adds failures to the tree that other tests look at."""
    code = """
from pipeline.gateway.submit import JobRequest
def taken(value):
    try:
        return bool(JobRequest.model_validate_json('{"input": "s3://b/k", "options": {"seed": %s}}' % value))
    except ValueError:
        return False
print([value for value in ("true", "null", "[1]", "{}", "1", "2.5", '"1"') if taken(value)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(["1", "2.5", '"1"'])
