"""File formats: input sets, PNG, cameras, depth encodings, meshes, and the scene that steps exchange."""
