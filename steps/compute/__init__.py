"""Compilation, caching and multithreading of numba kernels."""
