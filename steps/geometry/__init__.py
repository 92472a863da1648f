"""Geometry over numpy arrays: cameras, meshes, depth maps, pictures. Kernels run without the GIL; no files, no torch.

The project's conventions, defined here only:

World     right-handed, y up; from validate on the local frame (`steps.geometry.frame`): origin near the object, unit about its
          size. Files that users get are in the frame and the unit of their cameras.
Camera    OpenGL camera-to-world: x right, y up, the camera looks along its own -z.
Pixels    arrays are [height, width, channel], row 0 on top; pixel (row r, column c) has its centre at
          (x, y) = (c + 0.5, r + 0.5), x to the right and y down.
Depth     distance along the viewing axis (z, not the ray), positive, in the world's unit; 0 where nothing was seen.
Colour    sRGB-encoded values as stored in the PNG, float in [0, 1], alpha straight. Blending, filtering and the
          metrics work on these values.
UV        origin bottom left, as OBJ and PLY have it: row = (1 - v) * height - 0.5. GLB wants the top left: its writer flips.
Faces     counter-clockwise seen from outside, (m, 3) int32.
"""
