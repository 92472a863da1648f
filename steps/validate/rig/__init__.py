"""The cameras of a set that came without them."""
