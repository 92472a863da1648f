"""Depth encoding of a set with known cameras."""
