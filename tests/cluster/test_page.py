"""The web page in a real browser."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cluster import web
from tests.cluster.node import wait_for
from tests.conftest import need

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# a picture of the page for whoever looks at it: that of docs/http.md is one of these
SCREENSHOTS = os.environ.get("SIXVIEW_SCREENSHOTS")


@pytest.fixture(scope="module")
def page(cluster: None) -> Iterator[Any]:
    """A page in Chromium, without a GPU: WebGL is computed on the CPU."""
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    need(bool(browser_path), "Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        options = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
        browser = player.chromium.launch(executable_path=browser_path, args=options)
        context = browser.new_context(viewport={"width": 1180, "height": 1500}, accept_downloads=True)
        page = context.new_page()
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def test_a_person_drops_twelve_files_and_sees_the_mesh_turn(
    page: Any, inputs: str, sample_set: Callable[..., Path], tmp_path: Path
) -> None:
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(web.address_of())
    page.wait_for_selector("#no-jobs:has-text('UNAUTHORIZED')")  # nobody sees anything without a token
    page.fill("#token", "token-of-operator")
    page.press("#token", "Tab")
    until(page, "!document.querySelector('#no-jobs').textContent.includes('UNAUTHORIZED')", 30)
    problems.clear()  # the browser itself reports the refusal
    page.set_input_files("#files", upload_files(sample_set("mug"), tmp_path))
    assert page.locator("#slots .slot").count() == 12
    assert page.locator("#slots .missing").count() == 0
    page.click("#submit")
    page.wait_for_selector("#detail:not([hidden])")
    job = page.inner_text("#detail-heading").removeprefix("Job ")
    page.wait_for_selector(f"tr[data-job='{job}']")
    progress = [seen(page, job)]
    until(page, "document.querySelector('#facts').innerText.includes('completed')", 600)
    until(page, f"document.querySelector(\"tr[data-job='{job}'] .completed\")", 30)
    progress.append(seen(page, job))
    assert progress[-1] == 100 > progress[0]
    until(page, "document.querySelector('#viewer').modelIsVisible", 120)
    assert frame_difference(page) > 1.0
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/page.png")
    with page.expect_download() as caught:
        page.click("#download")
    with zipfile.ZipFile(caught.value.path()) as archive:
        assert "reconviagen/mesh.glb" in archive.namelist()
    assert caught.value.suggested_filename == f"{job}.zip"
    page.click("#show-report")
    page.frame_locator("#report").locator("body:has-text('fusion')").wait_for()
    assert problems == []


def until(page: Any, expression: str, seconds: float) -> None:
    """Asked from outside: the page's own policy lets no text become a program, which Playwright's waiting would need."""
    wait_for(lambda: bool(page.evaluate(expression)), seconds, expression)


def upload_files(folder: Path, out: Path) -> list[str]:
    """The twelve files under names that tell field and view, as a file dialog hands them over."""
    names = []
    for inner, prefix in (("multi_views", "view"), ("depth_renders", "depth")):
        for path in (folder / inner).iterdir():
            shutil.copy(path, out / f"{prefix}_{path.name}")
            names.append(str(out / f"{prefix}_{path.name}"))
    return names


def seen(page: Any, job: str) -> float:
    return float(page.eval_on_selector(f"tr[data-job='{job}'] progress", "bar => bar.value"))


def frame_difference(page: Any) -> float:
    """The mean difference of two pictures of the viewer, in levels of 255: it turns by itself, and shows something."""
    pictures = []
    for _ in range(2):
        page.wait_for_timeout(4000)
        picture = io.BytesIO(page.locator("#viewer").screenshot())
        pictures.append(np.asarray(Image.open(picture).convert("RGB")).astype(float))
    assert pictures[0].std() > 5
    return float(abs(pictures[0] - pictures[1]).mean())


def test_a_bad_set_is_explained_on_the_page(
    page: Any, inputs: str, sample_set: Callable[..., Path], tmp_path: Path
) -> None:
    page.goto(web.address_of())
    files = upload_files(sample_set("mug"), tmp_path)
    page.set_input_files("#files", files[1:])
    assert page.is_disabled("#submit")
    assert "Missing" in page.inner_text("#problem")
    Path(files[0]).write_bytes(b"GIF89a")
    page.set_input_files("#files", files)
    page.click("#submit")
    page.wait_for_selector("#problem:has-text('INVALID_FILE_FORMAT')")


def test_the_documentation_needs_nothing_from_elsewhere(page: Any, cluster: None) -> None:
    requested: list[str] = []
    page = page.context.new_page()
    page.on("request", lambda request: requested.append(request.url))
    page.goto(f"{web.address_of()}/docs")
    page.wait_for_selector(".opblock", timeout=30_000)
    assert page.locator(".opblock").count() >= 8
    here = page.evaluate("location.origin")
    assert [url for url in requested if not url.startswith((f"{here}/", "data:", "blob:"))] == []
