"""The GPU kit: what one command measures and compares on a bare machine with an NVIDIA GPU. See `python -m tests.gpu --help`."""
