"""The rig model: depth encodings, projection, and agreement of the fit with the exported cameras and encodings."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steps.calibration import observations, photometric, search
from steps.calibration.hypotheses import PRESETS, Hypothesis, axes_of, hypotheses
from steps.calibration.observations import Observations
from steps.calibration.rig_model import (
    CURVE,
    END_HEIGHTS,
    PER_VIEW,
    SHARED,
    EncodingModel,
    curve_is_monotone,
    height_of,
    project_to_view,
    to_world,
    undo_curve,
    unpack_params,
)
from steps.calibration.search import Candidate
from steps.calibration.selection import EQUIVALENT_LOCAL, Choice
from steps.calibration.solver import PARAM_STD, Fit, Problem
from steps.compute.arrays import Array
from steps.geometry.cameras import Placement, project, ray_to_z, unproject
from steps.geometry.depth_curve import is_monotone
from steps.io import cameras_json, png
from steps.io.cameras_json import SCHEMA, Arrangement
from steps.io.depth_encoding import DepthEncoding, foreground, metric_depth
from steps.io.input_checks import Pictures
from steps.runtime import contract
from steps.validate import placement
from steps.validate.rig import messages, stage

SIDE = 64


def random_candidate(seed: int, curved: bool = False) -> Candidate:
    random = np.random.default_rng(seed)
    params = np.zeros(SHARED + 6 * PER_VIEW)
    params[0], params[END_HEIGHTS] = random.uniform(0.1, 0.6), (0.6, -0.4)
    params[SHARED:] = (random.uniform(-1, 1, (6, PER_VIEW)) * PARAM_STD).ravel()
    hypothesis = hypotheses()[int(random.integers(32))]
    if curved:
        params[CURVE] = random.uniform(-3, 3), *random.uniform(-0.2, 0.2, 2)
    return Candidate(hypothesis, EncodingModel(curved=int(curved)), Fit(params, 0.0))


def test_all_32_hypotheses_differ_and_none_is_a_mirror_image() -> None:
    rigs = [axes_of(hypothesis) for hypothesis in hypotheses()]
    assert all(np.linalg.det(axes) == pytest.approx(np.ones(6)) for axes in rigs)
    assert len({axes.round().tobytes() for axes in rigs}) == 32


@pytest.mark.parametrize("inverse", [0, 1])
@pytest.mark.parametrize("ray", [0, 1])
def test_a_normalized_depth_means_the_height_that_its_encoding_says(inverse: int, ray: int) -> None:
    k, low, high, x, y = 0.4, 0.5, -0.6, 0.3, -0.2
    for share in (0.0, 0.3, 1.0):
        near, far = 1 / k - low, 1 / k - high
        distance = 1 / (1 / near + share * (1 / far - 1 / near)) if inverse else near + share * (far - near)
        along_axis = distance / np.sqrt(1 + k * k * (x * x + y * y)) if ray else distance
        assert height_of(share, x, y, k, low, high, inverse, ray) == pytest.approx(1 / k - along_axis)


def test_without_perspective_inverse_and_ray_are_linear_along_the_axis() -> None:
    for inverse, ray in ((1, 0), (0, 1), (1, 1)):
        assert height_of(0.3, 0.5, 0.5, 0.0, 0.5, -0.5, inverse, ray) == pytest.approx(0.2)


@pytest.mark.parametrize("curve", [(3.0, 0.0, 0.0), (-3.0, 0.2, -0.1), (1e-5, 0.3, 0.0), (0.0, 0.0, 0.0)])
def test_a_curve_keeps_its_ends_and_rises_as_its_slope_says(curve: tuple[float, float, float]) -> None:
    shares = np.linspace(0, 1, 101)
    values, slopes = np.array([undo_curve(s, *curve) for s in shares]).T
    assert (values[0], values[-1]) == pytest.approx((0, 1)) and (np.diff(values) > 0).all()
    assert np.gradient(values, shares)[1:-1] == pytest.approx(slopes[1:-1], rel=2e-3)


def test_a_curve_that_is_not_monotone_is_rejected() -> None:
    params = random_candidate(0).fit.params
    params[CURVE] = 0.0, 2.0, 0.0
    assert not curve_is_monotone(params)


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_exported_cameras_project_as_the_fit_does(seed: int, curved: bool) -> None:
    """A point of one depth render, taken into another by the fit's arithmetic and by the cameras and encodings written; each
    view has a range of values of its own."""
    candidate = random_candidate(seed, curved)
    counts = np.zeros((SIDE, SIDE, 1), np.uint8)
    counts[20:40, 20:40, 0] = 140
    depths = [_picture(counts)] * 6
    spans = [(40.0, 240.0 - 5 * view) for view in range(6)]
    views = stage.views_of(candidate, Pictures(depths, depths), spans, 0, [Placement()] * 6)
    i, j = 0, 2
    depth = metric_depth(depths[i], views[i].depth, ray_to_z(views[i].camera, (SIDE, SIDE))).depth
    pixels, distance = project(unproject(depth, views[i].camera), views[j].camera)
    place = (20.5 * 2 / SIDE - 1, 1 - 20.5 * 2 / SIDE)
    point = np.array([*place, (140 - 40) / 200, 0.0, 0.0])
    axes = axes_of(candidate.hypothesis)
    place = to_world(point[None], axes[i], candidate.encoding, candidate.fit.params, i)[0]
    _, _, height, x, y, _ = project_to_view(place, axes[j], unpack_params(candidate.fit.params), j)
    assert ((x + 1) * SIDE / 2, (1 - y) * SIDE / 2) == pytest.approx(tuple(pixels[0]), abs=1e-3)
    assert stage.UNIT * (1 / candidate.fit.params[0] - height) == pytest.approx(distance[0], rel=1e-5)


def _picture(pixels: Array) -> png.Picture:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0]).save(file, "PNG")
    return png.decode(file.getvalue())


def test_a_view_is_placed_on_its_depth_though_a_shadow_lies_beside_it() -> None:
    y, x = np.mgrid[:200, :200].astype(float)
    inside = ((x - 100) / 50) ** 2 + ((y - 90) / 35) ** 2 < 1
    distance = observations._signed_distance(inside, 128)
    scale, dx, dy = 1.03, 0.05, -0.04
    u, v = (x + 0.5) / 100 - 1, 1 - (y + 0.5) / 100
    seen = photometric.sample_half_widths(inside.astype(float), (u - dx) / scale, (v - dy) / scale) > 0.5
    shadow = 0.2 * np.exp(-(((x - 100) / 60) ** 2 + ((y - 135) / 20) ** 2))
    colour = np.where(seen[..., None], [0.8, 0.3, 0.2], 0.97 - shadow[..., None])
    candidate = photometric.align_to_silhouette(colour, np.full(3, 0.97), distance)
    assert (candidate.scale, candidate.x, candidate.y) == pytest.approx((scale, dx, dy), abs=0.008)


def test_the_background_value_is_read_from_the_frame() -> None:
    counts = np.full((SIDE, SIDE, 1), 255, np.uint8)
    counts[20:40, 20:40] = 100
    assert stage.background_of([_picture(counts)] * 6) == "max"
    assert stage.background_of([_picture(np.where(counts == 255, 0, counts).astype(np.uint8))] * 6) == 0


def test_a_moved_depth_render_has_its_values_where_the_view_has_its_colours() -> None:
    counts = np.zeros((SIDE, SIDE, 1), np.uint8)
    counts[20:40, 20:40] = 100
    shift = Placement(1.0, 8 * 2 / SIDE, 4 * 2 / SIDE)
    moved = placement.move_depth(_picture(counts), shift, 0)
    assert np.array_equal(moved.pixels[16:36, 28:48, 0], counts[20:40, 20:40, 0])
    assert moved.pixels.sum() == counts.sum()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("background", [0, 7, 200, "max", "alpha", None])
def test_a_moved_depth_render_is_background_outside_its_frame(background: int | str | None, channels: int) -> None:
    """The foreground keeps its 400 pixels for each kind of background value."""
    empty = 255 if background == "max" else background if isinstance(background, int) else 90
    pixels = np.full((64, 64, channels), empty, np.uint8)
    pixels[20:40, 20:40] = 120
    encoding = DepthEncoding(background=background)
    if channels in (2, 4):
        pixels[..., -1] = 255
        pixels[pixels[..., 0] != 120, -1] = 0 if background in ("alpha", None) else 255
    picture = png.Picture(pixels, 255)
    for x, y in ((0.25, 0.125), (-0.26, 0.01), (0.0, -0.3)):
        moved = placement.move_depth(picture, Placement(1.0, x, y), background)
        lost = 64 * 64 - int((~_beyond(x, y)).sum())
        before, after = foreground(picture, encoding), foreground(moved, encoding)
        assert after.sum() == before.sum() - (lost if before.all() else 0)


def _beyond(x: float, y: float) -> Any:
    """[64, 64] bool: pixels of a picture, shifted by (x, y) half widths, outside its original frame."""
    places = np.arange(64) + 0.5
    across, down = places - 32 * x, places + 32 * y
    return ((down < 0) | (down >= 64))[:, None] | ((across < 0) | (across >= 64))[None]


def test_a_moved_pixel_takes_the_nearest_source_pixel_also_at_negative_coordinates() -> None:
    ramp = png.Picture(np.arange(1, 65, dtype=np.uint8)[None, :, None].repeat(64, axis=0), 255)
    for x in (0.5 / 32, 0.75 / 32, -0.75 / 32):
        columns = np.floor(np.arange(64) + 0.5 - 32 * x).astype(int)
        expected = np.where((columns >= 0) & (columns < 64), columns + 1, 0)
        assert np.array_equal(placement.move_depth(ramp, Placement(1.0, x, 0.0), 0).pixels[0, :, 0], expected)


def test_the_note_asks_for_the_field_of_view_where_its_standard_error_is_large() -> None:
    candidate = random_candidate(3)
    for degrees, extended in ((0.5, False), (4.0, True)):
        std_error = np.radians(degrees) / 2 * (1 + candidate.fit.params[0] ** 2)
        chosen = replace(candidate, fit=replace(candidate.fit, std_error=float(std_error)))
        note = messages.note_of(Choice(chosen, [], [], [], [], np.inf, True), DepthEncoding(), per_view=False)
        assert ("The lens" in note) == extended
    generator = replace(chosen, hypothesis=Hypothesis(preset="zero123plus-v1.1"))
    assert "The lens" not in messages.note_of(
        Choice(generator, [], [], [], [], np.inf, True), DepthEncoding(), per_view=False
    )  # its line has no place for it
    given = cameras_json.parse(note[note.index("{") :].rstrip(".").encode())
    assert isinstance(given, Arrangement) and given.left_is == candidate.hypothesis.left_is
    assert given.field_of_view == round(messages.field_of_view(candidate))


def test_hypotheses_are_described_in_words() -> None:
    assert messages.words(Hypothesis("object", 1, 0)) == "left means the object's left, top turned by 90 degrees"
    assert messages.words(Hypothesis(preset="wonder3d")) == "the rig of wonder3d"


@pytest.mark.parametrize("ray", [0, 1])
@pytest.mark.parametrize("inverse", [0, 1])
def test_a_world_point_s_normal_is_that_of_the_surface(inverse: int, ray: int) -> None:
    """Of a curved surface under perspective: the cross product of two steps along it, taken by differences."""
    candidate = random_candidate(5)
    axes = axes_of(candidate.hypothesis)[1]

    def position(u: float, v: float) -> Array:
        value, dx, dy = 0.4 + 0.3 * u - 0.2 * v + 0.5 * u * v, 0.3 + 0.5 * v, -0.2 + 0.5 * u
        point = np.array([[u, v, value, dx, dy]])
        return to_world(point, axes, EncodingModel(inverse, ray), candidate.fit.params, 1)[0]

    h = 1e-4
    across = [
        position(0.2 + h, 0.1)[:3] - position(0.2 - h, 0.1)[:3],
        position(0.2, 0.1 + h)[:3] - position(0.2, 0.1 - h)[:3],
    ]
    normal = np.cross(*across)
    assert position(0.2, 0.1)[3:] == pytest.approx(normal / np.linalg.norm(normal), abs=2e-3)


def ball_views() -> tuple[list[Array], list[Array], Array]:
    """Six grey pictures of a ball [64, 64, 3], its masks [64, 64], and its normals in the world, (6, 64, 64, 3)."""
    axis = (np.arange(SIDE) + 0.5) * 2 / SIDE - 1
    x, y = np.meshgrid(axis, -axis)
    z = np.sqrt(np.maximum(0.64 - x**2 - y**2, 0))
    mask = (z > 0).astype(float)
    own = np.stack([x, y, z], axis=2) / 0.8 * mask[..., None]
    return (
        [np.full((SIDE, SIDE, 3), 0.5)] * 6,
        [mask] * 6,
        np.stack([own @ axes for axes in axes_of(Hypothesis())]),
    )


def turned_top(quarters: int) -> Array:
    return axes_of(Hypothesis(top=quarters))


def test_lighting_from_another_side_gives_no_appearance_difference() -> None:
    maps, masks, normals = ball_views()
    lit = [m * (1 + 0.2 * n[..., :1] - 0.1 * n[..., 1:2]) for m, n in zip(maps, normals, strict=True)]
    difference = photometric.appearance_differences(lit, masks, normals, turned_top(0), [turned_top(1)])[0]
    assert difference.overall < 1e-4 and difference.local < 1e-3


def test_paint_that_no_lighting_explains_gives_an_appearance_difference() -> None:
    maps, masks, normals = ball_views()
    spotted = [m * np.where(n[..., :1] > 0.5, 0.2, 1.0) for m, n in zip(maps, normals, strict=True)]
    difference = photometric.appearance_differences(spotted, masks, normals, turned_top(0), [turned_top(2)])[0]
    assert difference.local > 2 * EQUIVALENT_LOCAL


def test_surface_normals_point_outwards() -> None:
    axis = (np.arange(SIDE) + 0.5) * 2 / SIDE - 1
    x, y = np.meshgrid(axis, -axis)
    inside = x**2 + y**2 < 0.5
    height = np.sqrt(np.maximum(0.64 - x**2 - y**2, 0))
    observed = observations.observations_of([height * 1000] * 6, [inside] * 6)
    params = np.zeros(SHARED + 6 * PER_VIEW)
    params[END_HEIGHTS] = [0.8 * h for h in (height[inside].min() / 0.8, 1.0)]
    candidate = search.normals(observed, Candidate(Hypothesis(), EncodingModel(0, 0), Fit(params, 0.0)))
    wanted = np.stack([np.stack([x, y, height], axis=2) / 0.8 @ axes for axes in axes_of(Hypothesis())])
    cosine = (candidate * wanted).sum(axis=3)[:, x**2 + y**2 < 0.4]
    assert cosine.min() > 0.98


def test_extreme_points_touch_the_silhouettes_of_the_other_views() -> None:
    """A ball with perspective, whose outlines are circles on its near half. Random points fall short of them."""
    k, axis = 0.5, (np.arange(SIDE) + 0.5) * 2 / SIDE - 1
    q = axis**2 + axis[:, None] ** 2
    root = k * k * q * q - (1 + k * k * q) * (q - 0.49)
    height = (k * q + np.sqrt(np.maximum(root, 0))) / (1 + k * k * q)
    observed = observations.observations_of([np.rint(height * 200)] * 6, [root > 0] * 6)
    params = np.zeros(SHARED + 6 * PER_VIEW)
    params[0], params[END_HEIGHTS] = k, [np.rint(h * 200) / 200 for h in (height[root > 0].min(), height.max())]
    axes = axes_of(Hypothesis())
    extended = observations.with_extreme_points(
        observed, observations.all_points(observed), axes, EncodingModel(), params
    )
    short, shorter = (np.abs(s.silhouette_extent - _reached(s, axes, params).max(axis=0)) for s in (observed, extended))
    assert shorter.max() < 2 / SIDE  # a pixel
    assert shorter.mean() < 0.7 * short.mean()


def _reached(observed: Observations, axes: Array, params: Array) -> Array:
    """(6, 6, directions), with few points."""
    return (
        Problem(observed, axes, EncodingModel(), search.ALL, search.PARAMETERS >= 0, stride=8).evaluate(params).extents
    )


def test_a_wall_seen_edge_on_turns_away_from_a_camera_that_stands_before_its_middle() -> None:
    """The side of a box is hidden from above by its lid, though it is upright: with perspective it faces away."""
    params = np.zeros(SHARED + 6 * PER_VIEW)
    params[0] = 0.4
    above = axes_of(Hypothesis())[4]
    side = np.array([0.5, 0.0, 0.0, 1.0, 0.0, 0.0])  # at x = 0.5, facing +x
    assert project_to_view(side, above, unpack_params(params), 4)[5] < -0.1


# -- rigs with a name ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_six_rotations_that_look_at_the_middle_upright(name: str) -> None:
    axes = PRESETS[name].axes
    assert np.allclose(axes @ axes.transpose(0, 2, 1), np.eye(3)) and np.allclose(np.linalg.det(axes), 1)
    assert np.allclose(axes[:, 0, 1], 0) and (axes[:, 1, 1] > 0).all()  # right is level, up points up


def test_presets_count_azimuth_towards_the_viewer_s_right() -> None:
    backs = PRESETS["wonder3d"].axes[:, 2]
    assert backs == pytest.approx(
        np.array([[0, 0, 1], [1, 0, 1], [1, 0, 0], [0, 0, -1], [-1, 0, 0], [-1, 0, 1]])
        / np.sqrt([1, 2, 1, 1, 1, 2])[:, None],
        abs=1e-12,
    )
    assert PRESETS["zero123plus-v1.2"].axes[0, 2, 1] == pytest.approx(np.sin(np.radians(20)))


def test_the_contract_and_the_schema_name_the_presets() -> None:
    schema = json.loads(SCHEMA.read_text())
    assert tuple(PRESETS) == contract.PRESETS == tuple(schema["properties"]["rig"]["oneOf"][0]["enum"])


def test_a_curve_is_inverted_where_a_view_spans_few_of_the_values() -> None:
    """A flat side in 16 bits spans few stored values."""
    candidate = random_candidate(1, curved=True)
    depths = [_picture(np.full((SIDE, SIDE, 1), 140, np.uint8))] * 6
    depths = [replace(d, pixels=d.pixels.astype(np.uint16), maximum=65535) for d in depths]
    views = stage.views_of(candidate, Pictures(depths, depths), [(140.0, 142.0)] * 6, 0, [Placement()] * 6)
    assert all(is_monotone(v.depth.curve) for v in views if v.depth)
