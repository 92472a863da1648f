"""Files that go in and come out: pictures, cameras, depth encodings, meshes, and the scene between the steps."""
