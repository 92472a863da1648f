"""Ways to damage an input set, each with the code it must get. Shared by the tests (a seeded few) and the benchmark (many)."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from steps.runtime.contract import VIEW_NAMES
from steps.runtime.files import read_json

Random = np.random.Generator
FIELDS = ("multi_views", "depth_renders")
MB = 1_000_000


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes, colour_type: int = 2, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def victim(folder: Path, rng: Random) -> Path:
    return folder / FIELDS[rng.integers(2)] / f"{VIEW_NAMES[rng.integers(6)]}.png"


def zipped(folder: Path, extra: Callable[[zipfile.ZipFile], None] = lambda archive: None) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.*")):
            if file.is_file():
                archive.write(file, f"wrapped/{file.relative_to(folder).as_posix()}")
        extra(archive)
    return path


# -- one function per kind: damages `folder`, returns what to hand in ---------------------------------------------------


def truncated(folder: Path, rng: Random) -> Path:
    file = victim(folder, rng)
    file.write_bytes(file.read_bytes()[: -int(rng.integers(1, file.stat().st_size))])
    return folder


def flipped_bit(folder: Path, rng: Random) -> Path:
    file = victim(folder, rng)
    data = bytearray(file.read_bytes())
    data[rng.integers(8, len(data) - 12)] ^= 1 << rng.integers(8)
    file.write_bytes(bytes(data))
    return folder


def renamed_jpeg(folder: Path, rng: Random) -> Path:
    file = victim(folder, rng)
    out = io.BytesIO()
    Image.open(file).convert("RGB").save(out, "JPEG")
    file.write_bytes(out.getvalue())
    return folder


def empty_file(folder: Path, rng: Random) -> Path:
    victim(folder, rng).write_bytes(b"")
    return folder


def noise(folder: Path, rng: Random) -> Path:
    victim(folder, rng).write_bytes(rng.bytes(5000))
    return folder


def pixel_bomb(folder: Path, rng: Random) -> Path:
    side = int(rng.integers(10_000, 60_000))
    victim(folder, rng).write_bytes(png(side, side, zlib.compress(bytes(100_000))))
    return folder


def stream_bomb(folder: Path, rng: Random) -> Path:
    squeeze = zlib.compressobj(9)
    data = b"".join(squeeze.compress(bytes(16 * MB)) for _ in range(64)) + squeeze.flush()
    victim(folder, rng).write_bytes(png(512, 512, data))
    return folder


def text_bomb_and_truncated(folder: Path, rng: Random) -> Path:
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200 * MB)))
    victim(folder, rng).write_bytes(png(64, 64, zlib.compress(bytes(100)), 2, bomb))
    return folder


def one_missing(folder: Path, rng: Random) -> Path:
    victim(folder, rng).unlink()
    return folder


def one_too_many(folder: Path, rng: Random) -> Path:
    file = victim(folder, rng)
    shutil.copy(file, file.with_name("view_0.png"))
    return folder


def no_depth_folder(folder: Path, rng: Random) -> Path:
    shutil.rmtree(folder / FIELDS[rng.integers(2)])
    return folder


def nothing_at_all(folder: Path, rng: Random) -> Path:
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def swapped_fields(folder: Path, rng: Random) -> Path:
    (folder / "multi_views").rename(folder / "x")
    (folder / "depth_renders").rename(folder / "multi_views")
    (folder / "x").rename(folder / "depth_renders")
    return folder


def strange_name(folder: Path, rng: Random) -> Path:
    names = ["正面.png", "frönt.png", "\u202egnp.tnorf.png", "🦆.png", "front .png", os.fsdecode(b"fr\xffnt.png")]
    names += ["a'; drop.png", "view_6.png", "view_٣.png"]
    file = victim(folder, rng)
    file.rename(file.with_name(names[rng.integers(len(names))]))
    return folder


def same_view_twice(folder: Path, rng: Random) -> Path:
    field = folder / FIELDS[rng.integers(2)]
    (field / "back.png").rename(field / "view_0.png")
    return folder


def too_large(folder: Path, rng: Random) -> Path:
    with open(victim(folder, rng), "ab") as file:
        file.truncate(int(rng.integers(20 * MB + 1, 200 * MB)))
    return folder


def zip_slip(folder: Path, rng: Random) -> Path:
    names = ["../../evil.png", "/etc/evil.png", "multi_views/../../evil.png", "c:\\evil.png"]
    return zipped(folder, lambda archive: archive.writestr(names[rng.integers(len(names))], b"x"))


def zip_link(folder: Path, rng: Random) -> Path:
    info = zipfile.ZipInfo("wrapped/multi_views/front.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    (folder / "multi_views" / "front.png").unlink()
    return zipped(folder, lambda archive: archive.writestr(info, "/etc/passwd"))


def zip_bomb(folder: Path, rng: Random) -> Path:
    with open(victim(folder, rng), "wb") as file:
        file.truncate(400 * MB)
    return zipped(folder)


def zip_lies_about_size(folder: Path, rng: Random) -> Path:
    """The archive announces a small file and holds a large one."""
    file = victim(folder, rng)
    with open(file, "wb") as large:
        large.truncate(60 * MB)
    path = zipped(folder)
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 60 * MB), struct.pack("<I", 1000)))
    return path


def zip_cut_off(folder: Path, rng: Random) -> Path:
    path = zipped(folder)
    path.write_bytes(path.read_bytes()[: int(rng.integers(0, path.stat().st_size - 30))])
    return path


def two_sets_in_one(folder: Path, rng: Random) -> Path:
    return zipped(
        folder, lambda archive: archive.write(folder / "multi_views" / "front.png", "other/multi_views/front.png")
    )


def symbolic_link(folder: Path, rng: Random) -> Path:
    file = victim(folder, rng)
    file.unlink()
    file.symlink_to("/etc/passwd")
    return folder


def fifo(folder: Path, rng: Random) -> Path:
    file = victim(folder, rng)
    file.unlink()
    os.mkfifo(file)
    return folder


def folder_for_file(folder: Path, rng: Random) -> Path:
    file = victim(folder, rng)
    file.unlink()
    file.mkdir()
    return folder


def flat_depth(folder: Path, rng: Random) -> Path:
    file = folder / "depth_renders" / f"{VIEW_NAMES[rng.integers(6)]}.png"
    Image.new("L", (128, 128), int(rng.integers(256))).save(file)
    return folder


def other_proportions(folder: Path, rng: Random) -> Path:
    file = victim(folder, rng)
    with Image.open(file) as image:
        changed = image.resize((image.width, image.height // 2))
    changed.save(file)
    return folder


def tiny(folder: Path, rng: Random) -> Path:
    Image.new("L", (1, 1), 7).save(victim(folder, rng))
    return folder


def invisible(folder: Path, rng: Random) -> Path:
    Image.new("RGBA", (128, 128)).save(folder / "multi_views" / f"{VIEW_NAMES[rng.integers(6)]}.png")
    return folder


def broken_cameras(folder: Path, rng: Random) -> Path:
    texts = ["{", "[" * 100_000, "[]", '{"format": "sixview-cameras/1", "views": []}', "\xff\xfe", "null", '{"a": NaN}']
    (folder / "cameras.json").write_text(texts[rng.integers(len(texts))], encoding="latin-1")
    return folder


def impossible_cameras(folder: Path, rng: Random) -> Path:
    document = json.loads((folder / "cameras.json").read_text())
    view = document["views"][rng.integers(6)]
    kinds: list[Callable[[], Any]] = [
        lambda: view["camera_to_world"][0].__setitem__(0, 7.0),
        lambda: view["intrinsics"].update(fx=-1),
        lambda: view.update(name="front") if view["name"] != "front" else view.update(name="back"),
        lambda: view["depth"].update(near=2.0, far=2.0),
        lambda: view["depth"].update(encoding="exponential"),
        lambda: view.update(surprise=1),
    ]
    kinds[rng.integers(len(kinds))]()
    (folder / "cameras.json").write_text(json.dumps(document))
    return folder


COUNT, LARGE, FORMAT, INVALID = "INVALID_FILE_COUNT", "FILE_TOO_LARGE", "INVALID_FILE_FORMAT", "VALIDATION_FAILED"
DAMAGES: dict[Callable[[Path, Random], Path], tuple[str, ...]] = {
    truncated: (FORMAT,),
    flipped_bit: (FORMAT,),
    renamed_jpeg: (FORMAT,),
    empty_file: (FORMAT,),
    noise: (FORMAT,),
    pixel_bomb: (INVALID,),
    stream_bomb: (FORMAT,),
    text_bomb_and_truncated: (FORMAT,),
    one_missing: (COUNT,),
    one_too_many: (COUNT,),
    no_depth_folder: (COUNT,),
    nothing_at_all: (COUNT,),
    swapped_fields: (INVALID,),
    strange_name: (INVALID,),
    same_view_twice: (INVALID,),
    too_large: (LARGE,),
    zip_slip: (INVALID,),
    zip_link: (INVALID,),
    zip_bomb: (LARGE,),
    zip_lies_about_size: (FORMAT,),
    zip_cut_off: (FORMAT,),
    two_sets_in_one: (INVALID,),
    symbolic_link: (INVALID,),
    fifo: (FORMAT,),
    folder_for_file: (FORMAT,),
    flat_depth: (INVALID,),
    other_proportions: (INVALID,),
    tiny: (INVALID,),
    invisible: (INVALID,),
    broken_cameras: (INVALID,),
    impossible_cameras: (INVALID,),
}


@dataclass(frozen=True)
class Verdict:
    """Outcome of `python -m steps.validate` for a damaged set."""

    kind: str
    expected: tuple[str, ...]
    record: dict[str, Any]
    exit_code: int
    printed: str
    seconds: float
    peak_mib: int

    def complaints(self) -> list[str]:
        """Violated expectations: code, exit code, suggestion, traceback, time, memory."""
        wrong = []
        if self.record.get("code") not in self.expected or self.exit_code != 10:
            wrong.append(f"{self.record.get('code')} (exit {self.exit_code}) instead of {self.expected}")
        if not self.record.get("suggestion") or not str(self.record.get("message", "")).endswith((".", ")")):
            wrong.append(f"no sentence to act on: {self.record.get('message')!r}")
        if "Traceback" in self.printed:
            wrong.append("a traceback")
        if self.seconds > 60:  # it hangs: how long it takes is the benchmark's to print, alone on its machine
            wrong.append(f"{self.seconds:.1f} s")
        if self.peak_mib > 1000:
            wrong.append(f"{self.peak_mib} MiB")
        return wrong


def case(number: int, seed: int) -> tuple[Callable[[Path, Random], Path], Random]:
    """The number-th case: the kinds take turns, each with a fresh random choice."""
    kinds = list(DAMAGES)
    return kinds[number % len(kinds)], np.random.default_rng([seed, number])


def tried(source: Path, work: Path, number: int, seed: int) -> Verdict:
    """Damages a copy of `source` and runs validate on it."""
    damage, rng = case(number, seed)
    folder = work / "set"
    for field in FIELDS:
        shutil.copytree(source / field, folder / field)
    shutil.copy(source / "cameras.json", folder)
    handed_in = damage(folder, rng)
    words = ["--input", handed_in, "--out", work / "scene", "--outputs", work / "outputs"]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "steps.validate", *map(str, words)], capture_output=True, timeout=60, check=False
    )
    seconds = time.monotonic() - began
    printed = (done.stdout + done.stderr).decode(errors="replace")
    peak = int((work / "outputs" / "peak-ram-mib").read_text() or 0)
    record = read_json(work / "outputs" / "failure.json", {})
    return Verdict(damage.__name__, DAMAGES[damage], record, done.returncode, printed, seconds, peak)
