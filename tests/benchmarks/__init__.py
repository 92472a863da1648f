"""Every figure that the README claims, with the command that prints it: `python -m tests.benchmarks NAME ...`."""
