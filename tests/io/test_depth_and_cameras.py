"""Depth encodings and cameras.json: decoding, parsing and round trips."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest

from steps.compute.arrays import Array
from steps.geometry.cameras import canonical_camera, ray_to_z
from steps.io import cameras_json
from steps.io.cameras_json import SCHEMA, Arrangement, canonical_views, document, parse
from steps.io.depth_encoding import DepthEncoding, encode_linear, foreground, metric_depth
from steps.io.png import Picture
from steps.runtime.errors import ValidationFailed

DEPTH = np.linspace(1.6, 3.4, 32 * 32).reshape(32, 32)
FLAT = np.ones((32, 32))


def picture(counts: Array, maximum: int = 65535) -> Picture:
    return Picture(np.rint(counts).astype(np.uint16)[..., None], maximum)


def encoded(e: DepthEncoding) -> Picture:
    """A depth render in this encoding: the inverse of the formulas in `depth_encoding`."""
    if e.encoding == "metric":
        return picture(DEPTH / e.scale)
    if e.encoding == "linear":
        return picture(through(e, (DEPTH - e.near) / (e.far - e.near)) * 65535)
    if e.encoding == "logarithmic":
        return picture(np.log(DEPTH / e.near) / np.log(e.far / e.near) * 65535)
    return picture((1 / DEPTH - 1 / e.near) / (1 / e.far - 1 / e.near) * 65535)


SQUARE = [[v / 200, (v / 200) ** 2 / 2 + v / 400] for v in range(201)]


def through(e: DepthEncoding, w: Array) -> Array:
    """Stored value of w: the inverse of the encoding's curve."""
    if e.curve is None:
        return w
    if e.curve == "srgb":
        return np.where(w <= 0.0031308, 12.92 * w, 1.055 * w ** (1 / 2.4) - 0.055)
    assert isinstance(e.curve, dict)
    if "gamma" in e.curve:
        return w ** (1 / e.curve["gamma"])
    return np.sqrt(2 * w + 0.25) - 0.5  # SQUARE


@pytest.mark.parametrize(
    "encoding",
    [
        DepthEncoding("linear", near=1.5, far=3.5),
        DepthEncoding("linear", near=1.5, far=3.5, curve="srgb"),
        DepthEncoding("linear", near=3.5, far=1.5, curve={"gamma": 2.2}),
        DepthEncoding("linear", near=1.5, far=3.5, curve={"knots": SQUARE}),
        DepthEncoding("logarithmic", near=1.5, far=3.5),
        DepthEncoding("linear", near=3.5, far=1.5),
        DepthEncoding("inverse", near=1.5, far=3.5),
        DepthEncoding("inverse", near=3.5, far=1.5),
        DepthEncoding("metric", scale=0.0001),
    ],
    ids=lambda e: f"{e.encoding} {e.near}-{e.far} {list(e.curve or [])}",
)
def test_decoding_is_right_within_the_step_it_reports(encoding: DepthEncoding) -> None:
    decoded = metric_depth(encoded(encoding), encoding, FLAT)
    assert (np.abs(decoded.depth - DEPTH) <= 0.51 * decoded.step + 1e-6).all()
    assert (decoded.step > 0).all() and decoded.step.max() < 0.001


def test_distance_along_the_ray_becomes_distance_along_the_axis() -> None:
    camera = canonical_camera("front", 32, 32)
    to_z = ray_to_z(camera, (32, 32))
    encoding = DepthEncoding("linear", "ray", 1.0, 5.0)
    rays = picture((DEPTH / to_z - 1.0) / 4.0 * 65535)
    assert metric_depth(rays, encoding, to_z).depth == pytest.approx(DEPTH, abs=1e-4)
    assert to_z.max() == pytest.approx(1.0, abs=1e-3) and (to_z <= 1).all()


@pytest.mark.parametrize(("background", "value"), [(0, 0), ("max", 65535), (1234, 1234)])
def test_the_background_value_means_nothing_is_there(background: int | str, value: int) -> None:
    counts = np.full((32, 32), 30000)
    counts[:16] = value
    decoded = metric_depth(picture(counts), DepthEncoding(background=background), FLAT)
    assert (decoded.depth[:16] == 0).all() and (decoded.depth[16:] > 0).all()


def test_without_a_background_value_everything_is_object() -> None:
    assert foreground(picture(np.zeros((32, 32))), DepthEncoding(background=None)).all()


def test_alpha_can_say_what_is_background() -> None:
    pixels = np.full((32, 32, 2), 200, np.uint8)
    pixels[:, :5, 1] = 0
    known = foreground(Picture(pixels, 255), DepthEncoding(background="alpha"))
    assert not known[:, :5].any() and known[:, 5:].all()


def test_eight_bits_stretched_to_sixteen_are_recognised_as_coarse() -> None:
    eight = np.rint(DEPTH * 50)
    coarse = metric_depth(picture(eight * 257), DepthEncoding(), FLAT)
    assert coarse.step[0, 0] == pytest.approx(2.0 / 255, rel=1e-5)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_sample_s_own_encoding_is_the_one_the_canonical_rig_assumes(bits: int) -> None:
    depth = np.where(DEPTH > 2, DEPTH, 0)
    counts = encode_linear(depth, 1.5, 3.5, bits)
    decoded = metric_depth(Picture(counts[..., None], 2**bits - 1), DepthEncoding(), FLAT)
    assert ((decoded.depth > 0) == (depth > 0)).all()
    assert np.abs(decoded.depth - depth).max() <= 1.0 / (2**bits - 1) + 1e-6


# -- cameras.json --------------------------------------------------------------------------------------------------------


def text(change: Any = None) -> bytes:
    made = document(canonical_views(64, 48))
    if change:
        change(made)
    return json.dumps(made).encode()


@pytest.mark.parametrize("curve", ["srgb", {"gamma": 2.2}, {"knots": SQUARE}])
def test_a_curve_that_was_written_can_be_given(curve: Any) -> None:
    encoding = DepthEncoding(near=1.4, far=3.0, curve=curve)
    views = [replace(v, depth=encoding) for v in canonical_views(64, 48)]
    assert [v.depth for v in parse(json.dumps(document(views)).encode())] == [encoding] * 6


def test_a_curve_that_turns_back_is_refused() -> None:
    encoding = DepthEncoding(curve={"knots": [[0, 0], [0.5, 0.8], [1, 0.7]]})
    views = [replace(v, depth=encoding) for v in canonical_views(64, 48)]
    with pytest.raises(ValidationFailed, match="knots do not rise"):
        parse(json.dumps(document(views)).encode())


def test_parse_inverts_document() -> None:
    for before, after in zip(canonical_views(64, 48), parse(text()), strict=True):
        assert np.array_equal(before.camera.camera_to_world, after.camera.camera_to_world)
        assert replace(before.camera, camera_to_world=None) == replace(after.camera, camera_to_world=None)
        assert after.depth == before.depth


def test_the_schema_is_a_valid_schema_and_accepts_what_we_write() -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(text()), schema)


def test_views_may_come_in_any_order_and_share_one_depth_encoding() -> None:
    def change(made: dict[str, Any]) -> None:
        made["views"].reverse()
        for view in made["views"]:
            del view["depth"]
        made["depth"] = {"encoding": "metric", "scale": 0.01}

    assert [v.camera.name for v in parse(text(change))] == list(cameras_json.VIEW_NAMES)
    assert {v.depth.scale for v in parse(text(change))} == {0.01}


def test_an_encoding_that_nobody_knows_is_left_open_and_written_as_such() -> None:
    views = parse(text(lambda d: d["views"][0].pop("depth")))
    assert views[0].depth is None and views[1].depth is not None
    assert parse(json.dumps(document(views)).encode())[0].depth is None


@pytest.mark.parametrize(
    ("rig", "expected"),
    [
        ("wonder3d", Arrangement(preset="wonder3d")),
        ({"left_is": "object"}, Arrangement(left_is="object")),
        ({"top_turned": 90, "bottom_turned": 0}, Arrangement(top_turned=90, bottom_turned=0)),
        ({"field_of_view": 42.5}, Arrangement(field_of_view=42.5)),
    ],
)
def test_one_line_says_how_the_cameras_stand(rig: Any, expected: Arrangement) -> None:
    assert parse(json.dumps({"format": "sixview-cameras/1", "rig": rig}).encode()) == expected


def test_a_rig_json_is_read_for_its_cameras() -> None:
    metadata = {"decision": "found", "cameras": document(canonical_views(64, 48))}
    assert [v.camera.name for v in parse(json.dumps(metadata).encode())] == list(cameras_json.VIEW_NAMES)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["views"].pop(), "views"),
        (lambda d: d.update(rig="wonder3d"), "either views"),
        (lambda d: (d.pop("views"), d.update(rig="mine")), "mine"),
        (lambda d: (d.pop("views"), d.update(rig={"top_turned": 45})), "45"),
        (lambda d: (d.pop("views"), d.update(rig={"field_of_view": 120})), "120"),
        (lambda d: (d.pop("views"), d.update(rig="wonder3d", depth={"encoding": "metric", "scale": 1})), "depth"),
        (lambda d: d["views"][1].update(name="front"), "no camera for back"),
        (lambda d: d["views"][2]["camera_to_world"][1].__setitem__(1, 3.0), "no rotation"),
        (lambda d: d["views"][2]["camera_to_world"][0].__setitem__(slice(0, 3), [1.0, 0.0, 0.0]), "no rotation"),
        (lambda d: d["views"][3]["camera_to_world"][3].__setitem__(3, 2.0), "last row"),
        (lambda d: d["views"][0]["intrinsics"].update(fx=0), "fx"),
        (lambda d: d["views"][0]["depth"].update(near=1.0, far=1.0), "near equal to far"),
        (lambda d: d["views"][0]["depth"].pop("far"), "far"),
    ],
)
def test_a_wrong_document_is_refused_with_the_place(change: Any, words: str) -> None:
    with pytest.raises(ValidationFailed, match=words):
        parse(text(change))
