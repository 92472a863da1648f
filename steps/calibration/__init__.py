"""Estimates cameras and depth encoding from six depth renders and views."""
