"""Registration of a mesh in an arbitrary frame to the six cameras."""
