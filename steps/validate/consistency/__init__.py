"""Consistency of the six views: whether all show the same object under the given cameras."""
