"""The differentiable rasterizer: gradients against finite differences, pictures against an independent renderer."""

from __future__ import annotations

from typing import Any

import mitsuba as mi
import numpy as np
import pytest
import torch

from steps.compute import kernels
from steps.compute.arrays import Array
from steps.raster import torch_ops as dr
from tests.raster.shapes import ball, camera, clip_of, likeness, rendered, supersampled, waves

SIZE = 64
STEP = 4e-3  # scene units, a tenth of a pixel


def colours_of(vertices: Array, kind: str) -> Array:
    if kind == "even":
        return np.ones((len(vertices), 3))
    return 0.5 + 0.5 * vertices if kind == "smooth" else np.random.default_rng(1).random((len(vertices), 3))


# -- gradients ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["even", "smooth", "random"])
def test_position_gradients_with_outlines_are_those_of_supersampling(kind: str) -> None:
    vertices, faces = ball(9)
    assert len(faces) < 500
    colours, tri, weight = colours_of(vertices, kind), torch.from_numpy(faces), waves(SIZE)
    x = torch.tensor(vertices, dtype=torch.float32, requires_grad=True)
    (rendered(x, torch.tensor(colours, dtype=torch.float32), tri, SIZE) * weight).sum().backward()
    chosen = np.random.default_rng(2).permutation(len(vertices))[:40]
    expected = np.zeros((len(chosen), 3))
    for row, vertex in enumerate(chosen):
        for axis in range(3):
            ends = []
            for sign in (1, -1):
                moved = vertices.copy()
                moved[vertex, axis] += sign * STEP
                ends.append(float((supersampled(moved, colours, tri, SIZE) * weight).double().sum()))
            expected[row, axis] = (ends[0] - ends[1]) / (2 * STEP)
    cosine, length = likeness(x.grad.numpy()[chosen], expected)
    assert cosine > 0.95 and abs(length - 1) < 0.10


@pytest.mark.parametrize("cells", [9, 20])
def test_moving_and_scaling_a_whole_outline_has_the_true_gradient_on_large_and_small_faces(cells: int) -> None:
    """Where faces are smaller than pixels, an edge's own face often owns none: such edges count too."""
    vertices, faces = ball(cells, rough=0.002)
    colours, tri, weight = np.ones((len(vertices), 3)), torch.from_numpy(faces), waves(SIZE)
    x = torch.tensor(vertices, dtype=torch.float32, requires_grad=True)
    (rendered(x, torch.tensor(colours, dtype=torch.float32), tri, SIZE) * weight).sum().backward()
    ways = [np.broadcast_to(axis, vertices.shape) for axis in np.eye(3)] + [vertices]
    result = np.array([(x.grad.numpy() * way).sum() for way in ways])

    def at(moved: Array) -> float:
        return float((supersampled(moved, colours, tri, SIZE) * weight).double().sum())

    expected = np.array([(at(vertices + STEP * way) - at(vertices - STEP * way)) / (2 * STEP) for way in ways])
    cosine, length = likeness(result, expected)
    assert cosine > 0.95 and abs(length - 1) < 0.10


@pytest.mark.parametrize("what", ["attribute", "texture"])
def test_colour_gradients_with_outlines_are_those_of_supersampling(what: str) -> None:
    """Both are linear in the colours, so that the finite difference is exact."""
    vertices, faces = ball(9)
    tri, weight = torch.from_numpy(faces), waves(SIZE)
    pos = torch.tensor(vertices, dtype=torch.float32)
    colours = torch.zeros((len(vertices), 3) if what == "attribute" else (1, 8, 8, 3))

    def picture(values: torch.Tensor, size: int, antialiased: bool) -> torch.Tensor:
        if what == "attribute":
            return rendered(pos, values, tri, size, antialiased)
        uv = rendered(pos, torch.cat([0.5 + 0.4 * pos[:, :2], torch.ones_like(pos[:, :1])], 1), tri, size, False)
        clip = clip_of(pos, camera(size))
        rast, _ = dr.rasterize(clip, tri, (size, size), with_db=False)
        seen = dr.texture(values, uv[..., :2].contiguous()) * uv[..., 2:]
        return dr.antialias(seen, rast, clip, tri) if antialiased else seen

    gradients = []
    for size, antialiased in ((SIZE, True), (SIZE * 8, False)):
        values = colours.clone().requires_grad_(True)
        seen = picture(values, size, antialiased)
        if not antialiased:
            seen = seen.reshape(1, SIZE, 8, SIZE, 8, 3).mean((2, 4))
        (seen * weight).sum().backward()
        gradients.append(values.grad.numpy())
    cosine, length = likeness(*gradients)
    assert cosine > 0.95 and abs(length - 1) < 0.10


def central(loss: Any, values: torch.Tensor, direction: torch.Tensor, step: float) -> float:
    return float(loss(values + step * direction) - loss(values - step * direction)) / (2 * step)


@pytest.mark.parametrize("boundary", ["wrap", "clamp", "zero"])
@pytest.mark.parametrize("filter_mode", ["linear", "linear-mipmap-linear"])
def test_texture_gradients_are_central_differences(filter_mode: str, boundary: str) -> None:
    rng = torch.Generator().manual_seed(0)
    uv = torch.rand((1, 9, 11, 2), generator=rng) * 1.6 - 0.3
    uv_da = torch.rand((1, 9, 11, 4), generator=rng) * 0.2 if "mipmap" in filter_mode else None
    tex, weight = torch.rand((1, 16, 16, 3), generator=rng), torch.rand((1, 9, 11, 3), generator=rng)

    def by_tex(values: torch.Tensor) -> torch.Tensor:
        seen = dr.texture(values, uv, uv_da, filter_mode=filter_mode, boundary_mode=boundary)
        return (seen * weight).double().sum()

    def by_uv(values: torch.Tensor) -> torch.Tensor:
        seen = dr.texture(tex, values, uv_da, filter_mode=filter_mode, boundary_mode=boundary)
        return (seen * weight).double().sum()

    for loss, at, step in ((by_tex, tex, 0.1), (by_uv, uv, 1e-4)):
        values = at.clone().requires_grad_(True)
        loss(values).backward()
        result, expected = [], []
        for seed in range(12):
            direction = torch.randn(at.shape, generator=torch.Generator().manual_seed(seed))
            if loss is by_uv:  # a texel's border is a kink: what could cross one stays
                grid = at * 16 - 0.5
                direction = direction * ((grid - grid.round()).abs() > 0.05)
                direction = direction * ((at * 8 - 0.5 - (at * 8 - 0.5).round()).abs() > 0.05)
                direction = direction * ((at * 4 - 0.5 - (at * 4 - 0.5).round()).abs() > 0.05)
            result.append(float((values.grad * direction).sum()))
            expected.append(central(loss, at, direction, step))
        assert np.linalg.norm(np.subtract(result, expected)) < 1e-3 * np.linalg.norm(expected) + 1e-5


def test_position_gradients_inside_faces_are_central_differences() -> None:
    """Where visibility stays as it is, rasterize and interpolate alone carry the gradient."""
    vertices, faces = ball(6)
    tri, weight = torch.from_numpy(faces), waves(SIZE)
    attributes = torch.rand((len(vertices), 3), generator=torch.Generator().manual_seed(0))
    start = torch.tensor(vertices, dtype=torch.float64)
    result, expected = [], []
    for seed in range(8):
        direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        near = [
            dr.rasterize(clip_of(start + s * direction, camera(SIZE)), tri, (SIZE, SIZE))[0] for s in (-1e-4, 0, 1e-4)
        ]
        same = (near[0][..., 3:] == near[1][..., 3:]) & (near[2][..., 3:] == near[1][..., 3:]) & (near[1][..., 3:] > 0)

        def loss(values: torch.Tensor, same: torch.Tensor = same) -> torch.Tensor:
            rast, _ = dr.rasterize(clip_of(values, camera(SIZE)), tri, (SIZE, SIZE))
            return (dr.interpolate(attributes, rast, tri)[0] * weight * same).double().sum()

        values = start.clone().requires_grad_(True)
        loss(values).backward()
        result.append(float((values.grad * direction).sum()))
        expected.append(central(loss, start, direction, 1e-4))
    assert np.linalg.norm(np.subtract(result, expected)) < 1e-3 * np.linalg.norm(expected)


def test_screen_derivatives_are_differences_between_pixels() -> None:
    vertices, faces = ball(5)
    tri, pos = torch.from_numpy(faces), clip_of(torch.tensor(vertices, dtype=torch.float32), camera(256))
    rast, rast_db = dr.rasterize(pos, tri, (256, 256))
    values, slopes = dr.interpolate(torch.tensor(vertices, dtype=torch.float32), rast, tri, rast_db, "all")
    same = (rast[0, :, 1:, 3] == rast[0, :, :-1, 3]) & (rast[0, :, 1:, 3] > 0)
    step = (values[0, :, 1:] - values[0, :, :-1])[same]
    mean = ((slopes[0, :, 1:, 0::2] + slopes[0, :, :-1, 0::2]) / 2)[same]
    assert torch.allclose(step, mean, atol=2e-4)


# -- pictures -----------------------------------------------------------------------------------------------------------


def test_the_same_scene_gives_the_same_bits_on_any_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, faces = ball(12)
    tri, weight = torch.from_numpy(faces), waves(SIZE)

    def everything() -> list[bytes]:
        x = torch.tensor(vertices, dtype=torch.float32, requires_grad=True)
        tex = torch.rand((1, 32, 32, 3), generator=torch.Generator().manual_seed(0)).requires_grad_(True)
        pos = clip_of(x, camera(SIZE))
        rast, _ = dr.rasterize(pos, tri, (SIZE, SIZE))
        uv, _ = dr.interpolate(x[:, :2], rast, tri)
        picture = dr.antialias(dr.texture(tex, uv.contiguous()), rast, pos, tri)
        (picture * weight).sum().backward()
        return [t.detach().numpy().tobytes() for t in (picture, x.grad, tex.grad)]

    first = everything()
    for cores in (1, 3):
        monkeypatch.setattr(kernels, "core_count", lambda cores=cores: cores)
        monkeypatch.setattr("steps.raster.texture.core_count", lambda cores=cores: cores)
        assert everything() == first


def test_a_floor_that_passes_under_the_camera_fills_the_picture_below_the_horizon() -> None:
    floor = torch.tensor([[-50.0, -1, -50], [50, -1, -50], [50, -1, 50], [-50, -1, 50]])
    tri = torch.tensor([[0, 1, 2], [0, 2, 3]], dtype=torch.int32)
    pos = clip_of(floor, camera(SIZE, 0.0, 0.0, 2.5))
    rast, _ = dr.rasterize(pos, tri, (SIZE, SIZE))
    seen = rast[0, ..., 3] > 0
    horizon = SIZE // 2 + 2  # 52 units away the floor is 1.4 pixels below the axis
    assert seen[horizon + 1 :].all() and not seen[: SIZE // 2].any()
    position, _ = dr.interpolate(floor, rast, tri)
    assert torch.allclose(position[0, ..., 1][seen], torch.tensor(-1.0), atol=1e-4)
    picture = dr.antialias((rast[..., 3:] > 0).float(), rast, pos, tri)
    assert bool(torch.isfinite(picture).all())


def test_masks_and_depth_are_those_of_mitsuba() -> None:
    """Rays through the pixels' centres, by another program."""
    mi.set_variant("scalar_rgb")
    vertices, faces = ball(24, rough=0.004)
    size, view = 160, camera(160)
    mesh = mi.Mesh("ball", len(vertices), len(faces))
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = vertices.astype(np.float32).ravel()
    parameters["faces"] = faces.astype(np.uint32).ravel()
    parameters.update()
    scene = mi.load_dict({"type": "scene", "ball": mesh})
    pose = np.asarray(view.camera_to_world)
    expected = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            local = np.array([(column + 0.5 - view.cx) / view.fx, -(row + 0.5 - view.cy) / view.fy, -1.0])
            ray = mi.Ray3f(view.position.tolist(), (pose[:3, :3] @ local).tolist())
            hit = scene.ray_intersect_preliminary(ray)
            expected[row, column] = hit.t if hit.is_valid() else 0
    x = torch.tensor(vertices, dtype=torch.float32)
    rast, _ = dr.rasterize(clip_of(x, view), torch.from_numpy(faces), (size, size))
    depth = (torch.cat([x, torch.ones_like(x[:, :1])], 1) @ torch.tensor(view.projection[2], dtype=torch.float32))[
        :, None
    ]
    result = dr.interpolate(depth, rast, torch.from_numpy(faces))[0][0, ..., 0].numpy()
    ours, theirs = rast[0, ..., 3].numpy() > 0, expected > 0
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.999
    assert np.abs(result - expected)[ours & theirs].max() < 1e-3


def test_invalid_arguments_raise_value_error() -> None:
    with pytest.raises(ValueError, match="no texture filter 'cubic'"):
        dr.texture(torch.zeros((1, 2, 2, 3)), torch.zeros((1, 1, 1, 2)), filter_mode="cubic")
    with pytest.raises(ValueError, match="diff_attrs"):
        dr.interpolate(
            torch.zeros((3, 1)), torch.zeros((1, 1, 1, 4)), torch.zeros((1, 3), dtype=torch.int32), None, "some"
        )
