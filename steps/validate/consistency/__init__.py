"""Whether the six views show one and the same object."""
