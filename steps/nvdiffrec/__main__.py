"""`python -m steps.nvdiffrec`: see steps.contracts for the flags."""

from steps.runner import main

if __name__ == "__main__":
    raise SystemExit(main("nvdiffrec"))
