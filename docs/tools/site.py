"""Checks that a built site loads nothing from elsewhere: `python -m docs.tools.site FOLDER`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

# what a browser fetches by itself; links that a reader may follow are no matter
TAG = re.compile(r"<(?:script|img|iframe|source|video|audio|object|embed|link)\b[^>]*>")
ADDRESS = re.compile(r"""(?:src|href|data|srcset)=["']?((?:https?:)?//[^"'\s>]+)""")
IN_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')\s]+)""")
DIAGRAM = re.compile(r"""class=["']?mermaid""")  # the theme would fetch what draws it


def outside(folder: Path) -> Iterator[str]:
    """A line for each address that a page of the site loads from another place."""
    for path in sorted(folder.rglob("*.html")):
        text = path.read_text()
        found = [address for tag in TAG.findall(text) for address in ADDRESS.findall(tag)]
        found += IN_STYLE.findall(text) + (["a diagram that the browser draws"] if DIAGRAM.search(text) else [])
        yield from (f"{path.relative_to(folder)}: {address}" for address in found)
    for path in sorted(folder.rglob("*.css")):
        yield from (f"{path.relative_to(folder)}: {address}" for address in IN_STYLE.findall(path.read_text()))


def main(folder: str) -> None:
    found = list(outside(Path(folder)))
    raise SystemExit("\n".join(["The site loads from elsewhere:", *found]) if found else 0)


if __name__ == "__main__":
    main(sys.argv[1])
