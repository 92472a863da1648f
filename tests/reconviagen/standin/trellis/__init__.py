"""Stand-in for the published package: the same public names, tiny networks. Its mesh is the visual hull of the six pictures, in
an arbitrary frame, perturbed by the networks' random weights."""
