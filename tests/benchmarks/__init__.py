"""Every figure of docs/figures.md, with the command that prints it: `python -m tests.benchmarks NAME ...`."""
