"""Differentiable rasterization, on a CPU and on CUDA."""
