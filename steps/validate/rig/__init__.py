"""Estimates the cameras of a set without a camera file."""
