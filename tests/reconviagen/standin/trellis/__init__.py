"""Stands in for the published package: the same public names, tiny networks. It is no model: what it makes is the hull of the six
pictures, in a frame of its own, which the networks' random weights dent a little."""
