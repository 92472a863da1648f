"""Foreground segmentation of the object, by transparency, depth and colour."""
