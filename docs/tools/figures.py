"""Writes the tables of docs/figures.md from the records in docs/figures: `python -m docs.tools.figures`.

A table stands between `<!-- figures: NAME -->` and `<!-- end -->`. Where there is no record of that name yet, what stands there
is left alone. tests/test_docs.py compares them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.benchmarks import records

PAGE = Path(__file__).parent.parent / "figures.md"
BLOCK = re.compile(r"<!-- figures: (\w+) -->\n(.*?)<!-- end -->\n", re.DOTALL)
CHANGED = " The code has changed since."
WITHOUT = ("Measured before records were kept.", "There is no record yet")  # how a table begins that no record tells of


def written(text: str) -> str:
    """The page with its tables as the records have them."""
    return BLOCK.sub(lambda found: block(found[1], found[2]), text)


def block(name: str, present: str) -> str:
    """The table of a benchmark between its markers: the record's, or the present one where there is no record."""
    path = records.KEPT / f"{name}.json"
    inside = of_record(json.loads(path.read_text())) if path.is_file() else present
    return f"<!-- figures: {name} -->\n{inside}<!-- end -->\n"


def of_record(record: dict[str, Any]) -> str:
    """A record in Markdown: when, of which code and where it was measured; its tables and its sentences."""
    parts = [measured(record)]
    for table in record["tables"]:
        parts += [f"{table['title']}:"] if table["title"] else []
        parts.append(records.markdown(table))
    parts += ["\n".join(f"- {note}" for note in record["notes"])] if record["notes"] else []
    return "\n\n".join(parts) + "\n"


def measured(record: dict[str, Any]) -> str:
    """The line above a benchmark's tables."""
    machine, commit = record["machine"], record["commit"]
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}"
    where += f", beside a load of {machine['load']:g}" if machine["load"] >= 1 else ""
    head, _, dirty = (commit or "").partition("-")
    which = f" at commit {head[:7]}{' with changes' if dirty else ''}" if commit else ""
    kept = f"[record](figures/{record['benchmark']}.json)"
    present = record["source_digest"] == records.source_digest(record["benchmark"])
    return f"Measured on {record['date'][:10]}{which}, {where} ({kept}).{'' if present else CHANGED}"


def without_marks(text: str) -> str:
    """The page without the marks of changed code: they come with every change, and no test asks for a new page each time."""
    return text.replace(CHANGED, "")


def main() -> None:
    PAGE.write_text(written(PAGE.read_text()))


if __name__ == "__main__":
    main()
