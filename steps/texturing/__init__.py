"""A UV atlas, and the six views baked into it."""
