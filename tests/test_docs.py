"""The documentation says what the code says: references are what is written from the code, links lead somewhere, files that it
names exist, and the commands of the first page run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.tools import figures, reference, site
from tests.benchmarks import records

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"`((?:steps|pipeline|tests|charts|images|docs|manifests|requirements)/[\w./-]+)`")


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


@pytest.mark.parametrize("name", reference.pages())
def test_a_reference_is_what_the_code_says(name: str) -> None:
    committed = reference.FOLDER / name
    assert committed.read_text() == reference.pages()[name], "write it anew: python -m docs.tools.reference"


def test_the_tables_of_figures_are_what_the_records_say() -> None:
    text = figures.PAGE.read_text()
    again = "write it anew: python -m docs.tools.reference"
    assert figures.without_marks(text) == figures.without_marks(figures.written(text)), again


def test_no_figure_is_of_a_smallest_form_or_a_rehearsal() -> None:
    assert [path.name for path in records.KEPT.glob("*") if json.loads(path.read_text())["smallest"]] == []


def test_every_benchmark_has_its_figures_from_a_record_or_says_that_they_are_older() -> None:
    blocks = dict(figures.BLOCK.findall(figures.PAGE.read_text()))
    assert sorted(blocks) == sorted(records.BENCHMARKS)
    assert {path.stem for path in records.KEPT.glob("*")} <= set(records.BENCHMARKS)
    without = [name for name in blocks if not (records.KEPT / f"{name}.json").is_file()]
    assert [name for name in without if not blocks[name].startswith(figures.WITHOUT)] == []


def test_a_figure_older_than_the_code_it_measures_is_marked() -> None:
    record = records.Run("quality").record()
    assert figures.CHANGED not in figures.of_record(record)
    assert figures.CHANGED in figures.of_record(record | {"source_digest": "0" * 64})


def test_a_table_that_is_not_the_record_s_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "KEPT", tmp_path)
    made = records.Run("quality")
    made.table("16-bit", ("object", "PSNR, dB"), [["mug", 44.561], ["donut", float("nan")]])
    made.save()
    text = figures.written("Above.\n<!-- figures: quality -->\n| 40 dB |\n<!-- end -->\nBelow.\n")
    assert [part in text for part in ("Above.\n", "| mug    | 44.56", "not measured", "Below.\n", "40 dB")] == [
        True
    ] * 4 + [False]
    assert figures.written(text) == text
    assert figures.written(text.replace("44.56", "45.56")) == text


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts and the site make them."""
    headings = re.findall(r"^#+ (.+)$", without_code(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", re.sub(r"[`*]", "", h)).strip().lower().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in LINK.findall(without_code(page.read_text())):
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if "://" not in link and (not target.is_file() or (anchor and anchor not in anchors(target))):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_files_that_a_page_names_are_there(page: Path) -> None:
    assert [name for name in NAMED.findall(page.read_text()) if not (ROOT / name).exists()] == []


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    assert [word for word in ("make run", "make test") if not any(line.startswith(word) for line in lines)] == []


def test_every_page_is_in_the_site_s_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    assert [p for p in names(sorted(DOCS.rglob("*.md"))) if p.removeprefix("docs/") not in text] == []


def test_what_a_page_loads_from_elsewhere_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "good.html").write_text('<a href="https://example.com">there</a><script src="a.js"></script>')
    assert list(site.outside(tmp_path)) == []
    (tmp_path / "bad.html").write_text(
        '<script src="https://example.com/a.js"></script><style>@import "//b.css"</style>'
    )
    assert list(site.outside(tmp_path)) == ["bad.html: https://example.com/a.js", "bad.html: //b.css"]


@pytest.mark.slow
def test_the_commands_of_the_first_page_run(tmp_path: Path) -> None:
    """Its blocks in `sh`, one after the other, in an empty folder."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (DOCS / "getting-started.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    program = tmp_path / "bin" / "sixview"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pipeline.cli.main "$@"\n')
    program.chmod(0o755)
    (tmp_path / "work").mkdir()
    path = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    shell = [shutil.which("sh") or "/bin/sh", "-eu"]
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        shell,
        input="\n".join(blocks),
        cwd=tmp_path / "work",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "work" / "job" / "report" / "index.html").is_file()
