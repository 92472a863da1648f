"""Cache folder of compiled kernels for a read-only installation."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from steps.compute import kernel_cache


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel's source file in a read-only installation, with a read-only home. Patched, since root may write anywhere."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    real = kernel_cache.writable
    monkeypatch.setattr(kernel_cache, "writable", lambda f: "temporary" in str(f) and real(f))
    return tmp_path / "installed" / "kernels.py"


def test_the_cache_folder_is_writable_by_its_owner_only(read_only: Path) -> None:
    folder = kernel_cache.fallback(read_only)
    assert folder is not None and folder.stat().st_mode & 0o777 == 0o700
    assert kernel_cache.fallback(read_only) == folder


def test_a_folder_of_that_name_that_others_can_write_to_is_not_used(read_only: Path) -> None:
    first = kernel_cache.fallback(read_only)
    assert first is not None
    first.chmod(0o777)
    second = kernel_cache.fallback(read_only)
    assert second not in (None, first) and second is not None and second.stat().st_mode & 0o777 == 0o700


def test_what_numba_chooses_by_itself_stays(read_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/elsewhere")
    assert kernel_cache.fallback(read_only) is None
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setattr(kernel_cache, "writable", lambda folder: folder.name == "__pycache__")
    assert kernel_cache.fallback(read_only) is None


def test_a_folder_is_writable_where_it_or_its_parent_is(tmp_path: Path) -> None:
    assert kernel_cache.writable(tmp_path / "new" / "one")
    (tmp_path / "file").write_text("")
    assert not kernel_cache.writable(tmp_path / "file" / "below")
