"""A job on this machine."""
