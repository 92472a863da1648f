"""Cameras and depth encoding from what six depth renders and views show."""
