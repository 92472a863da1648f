"""How compiled kernels are made, kept and spread over the cores."""
