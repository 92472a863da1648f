"""`python -m steps.nvdiffrec`: see steps.runtime.contract for the flags."""

from steps.runtime.supervisor import main

if __name__ == "__main__":
    raise SystemExit(main("nvdiffrec"))
