"""The life of one step: its contract, its errors, and the process that watches it. Standard library only."""
