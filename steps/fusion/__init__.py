"""Depth fusion: six depth renders to one closed, textured mesh."""
