"""Foreground masks: interpretation of alpha and background, holes in depth, and orientation. Each case is compared with the clean
set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from steps.compute.arrays import Array
from steps.io import scene
from steps.io.depth_encoding import MetricDepth
from steps.io.png import Picture
from steps.io.scene import Scene
from steps.runtime.contract import OUTLINES, VIEW_NAMES, Validate
from steps.runtime.reporter import Reporter
from steps.validate import run
from steps.validate.foreground import alpha, holes, masks, outside
from tests.cases import holes as sensor
from tests.cases.kit import Case
from tests.cases.pictures import CASES, full_alpha, over_white, screens, sensor_holes

BY_ALPHA = [c for c in CASES if "opaque" not in c.name and "over" not in c.name and "screen" not in c.name]
BY_COLOUR = [c for c in CASES if c not in BY_ALPHA]


def validated(source: Path, work: Path) -> Scene:
    """The scene that validate makes, within this process."""
    for folder in (work / "scene", work / "outputs"):
        folder.mkdir(parents=True)
    parameters = Validate(input=source, out=work / "scene", outputs=work / "outputs")
    run.run(parameters, work / "scene", Reporter(work / "outputs", "validation"))
    return scene.load(work / "scene")


@pytest.fixture(scope="module")
def clean(duck: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return validated(duck, tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module")
def white(duck: Path, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    work = tmp_path_factory.mktemp("white")
    return validated(Case("", over_white).write(duck, work / "set"), work)


def assert_says(loaded: Scene, case: Case) -> None:
    notes = loaded.metadata["notes"]
    assert all(any(words in note for note in notes) for words in case.says), notes
    assert not any("WARNING" in note for note in notes), notes


@pytest.mark.parametrize("case", BY_ALPHA, ids=lambda c: c.name)
def test_transparency_in_every_spelling_means_the_same(case: Case, duck: Path, clean: Scene, tmp_path: Path) -> None:
    loaded = validated(case.write(duck, tmp_path / "set"), tmp_path)
    assert_says(loaded, case)
    assert loaded.metadata["mask"] == "alpha"
    for a, b in zip(clean.views, loaded.views, strict=True):
        assert np.abs(a.coverage() - b.coverage()).mean() < (
            0.002 if "matte" in case.name or "shadow" in case.name else 0.0005
        )
        assert np.abs(a.colour() - b.colour())[a.coverage() > 0.3].max() <= 0.02
        known = b.depth() > 0
        # in the unit of the cameras: each set has a local frame of its own
        apart = np.abs(clean.frame.scale * a.depth() - loaded.frame.scale * b.depth())
        assert apart[known].max() <= 1e-4 and (known <= (a.depth() > 0)).all()
        assert known.sum() > 0.97 * (a.depth() > 0).sum()


WALLS = [c for c in sensor.CASES if c.name in ("depth_wall", "depth_wall corner", "depth_wall floor")]


@pytest.mark.parametrize("case", WALLS, ids=lambda c: c.name)
def test_depth_behind_the_object_counts_as_none(case: Case, duck: Path, clean: Scene, tmp_path: Path) -> None:
    """And neither the encoding nor the local frame is judged by it."""
    loaded = validated(case.write(duck, tmp_path / "set"), tmp_path)
    assert_says(loaded, case)
    assert loaded.frame.scale == pytest.approx(clean.frame.scale, rel=0.02)
    for a, b in zip(clean.views, loaded.views, strict=True):
        assert np.array_equal(a.coverage(), b.coverage())
        both = (a.depth() > 0) & (b.depth() > 0)
        assert np.abs(clean.frame.scale * a.depth() - loaded.frame.scale * b.depth())[both].max() < 1e-4
        assert both.sum() > 0.98 * max((a.depth() > 0).sum(), (b.depth() > 0).sum())


@pytest.mark.parametrize("case", BY_COLOUR, ids=lambda c: c.name)
def test_opaque_views_show_the_object_wherever_they_stand(
    case: Case, duck: Path, clean: Scene, white: Scene, tmp_path: Path
) -> None:
    loaded = validated(case.write(duck, tmp_path / "set"), tmp_path)
    assert_says(loaded, case)
    assert loaded.metadata["mask"] == "depth and colour"
    for a, b, w in zip(clean.views, loaded.views, white.views, strict=True):
        usual = np.abs(a.coverage() - w.coverage()).mean()
        assert np.abs(a.coverage() - b.coverage()).mean() < usual + 0.006
        assert np.abs(a.colour() - b.colour())[(a.coverage() == 1) & (b.coverage() == 1)].max() <= 0.02


def test_full_alpha_is_as_no_alpha(duck: Path, white: Scene, tmp_path: Path) -> None:
    loaded = validated(Case("", full_alpha).write(duck, tmp_path / "set"), tmp_path)
    for a, b in zip(white.views, loaded.views, strict=True):
        assert np.array_equal(a.coverage(), b.coverage()) and np.array_equal(a.picture(), b.picture())
    assert all(view.behind() == pytest.approx([1, 1, 1]) for view in loaded.views)


def test_clean_views_are_left_as_they_are(clean: Scene) -> None:
    assert clean.metadata["notes"] == []


def test_holes_are_the_object_and_their_depth_is_unknown(duck: Path, white: Scene, tmp_path: Path) -> None:
    loaded = validated(Case("", lambda f: sensor_holes(over_white(f))).write(duck, tmp_path / "set"), tmp_path)
    for a, b in zip(white.views, loaded.views, strict=True):
        lost = (a.depth() > 0) & (b.depth() == 0)
        assert lost.sum() > 100 and (b.coverage()[lost] >= 0.5).mean() > 0.93
        assert (b.coverage() >= 0.5)[a.coverage() < 0.1].mean() < 0.001


def test_outlines_are_drawn_for_the_report(duck: Path, tmp_path: Path) -> None:
    validated(duck, tmp_path)
    assert (tmp_path / "outputs" / OUTLINES).read_bytes()[8:12] == b"WEBP"


def test_renders_are_compared_over_what_is_behind_each_view(duck: Path, clean: Scene, tmp_path: Path) -> None:
    """The clean view, laid over what was found behind, is the picture that was given."""
    loaded = validated(Case("", screens).write(duck, tmp_path / "set"), tmp_path)
    for a, b in zip(clean.views, loaded.views, strict=True):
        assert b.behind().shape == (128, 128, 3)
        rendered = scene.as_stored(np.dstack([a.colour() * a.coverage()[..., None], a.coverage()]), b.behind())
        assert np.sqrt(((rendered - b.picture()) ** 2).mean()) < 0.01


# -- by small pictures ---------------------------------------------------------------------------------------------------


def disc(radius: float, side: int = 80) -> Array:
    """[side, side] float, the share of each pixel that a disc covers."""
    y, x = np.mgrid[0:side, 0:side] + 0.5 - side / 2
    return np.clip(radius - np.hypot(x, y) + 0.5, 0, 1)


def rgba(colour: Array | tuple[float, ...], share: Array) -> Picture:
    full = np.broadcast_to(np.asarray(colour, float), (*share.shape, 3))
    return Picture(np.rint(np.dstack([full, share]) * 255).astype(np.uint8), 255)


@pytest.mark.parametrize("case", [c for c in sensor.CASES if c.name.startswith("depth_jpeg")], ids=lambda c: c.name)
def test_what_a_jpeg_smears_beside_the_object_is_no_floor(case: Case, duck: Path, tmp_path: Path) -> None:
    loaded = validated(case.write(duck, tmp_path / "set"), tmp_path)
    assert not any("behind the object" in note for note in loaded.metadata["notes"])


MARGIN = 9  # pixels around the object: all of them lie within a JPEG's blocks of its outline


def box(side: int) -> tuple[Array, Array]:
    """[side, side]: a block that fills the picture but for MARGIN, as coverage, and as a curved surface's depth in 8 bits."""
    share = np.zeros((side, side))
    share[MARGIN:-MARGIN, MARGIN:-MARGIN] = 1
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    return share, np.where(share > 0, np.rint(90 + 160 * (x**2 + y**2)), 0).astype(np.uint8)


def without_outside(counts: Array, share: Array) -> tuple[list[MetricDepth], list[str]]:
    """What is left of six such depth renders, and notes."""
    depth = MetricDepth(counts.astype(np.float32) / 100, np.where(counts > 0, np.float32(0.01), np.float32(0)))
    return outside.remove_outside([depth] * 6, [np.rint(255 * share).astype(np.uint8)] * 6)


@pytest.mark.parametrize("side", [128, 192, 256])
def test_a_floor_in_narrow_margins_is_no_smear(side: int) -> None:
    share, counts = box(side)
    rows = np.arange(side)[:, None] / side + np.zeros((side, side))
    floor = np.where(rows > 0.5, 200 - 100 * (rows - 0.5), 0)
    left, notes = without_outside(np.rint(np.where(share > 0, counts, floor)).astype(np.uint8), share)
    assert notes and outside.BESIDE in notes[0]
    assert all((depth.depth[share <= 0] == 0).all() for depth in left)


def jpeg(quality: int) -> Callable[[Array], Array]:
    return lambda counts: sensor.as_jpeg(quality)(257.0 * counts, np.random.default_rng(0))


def lanczos(counts: Array) -> Array:
    half = Image.fromarray(counts).resize((len(counts) // 2,) * 2, Image.Resampling.LANCZOS)
    return np.asarray(half.resize(counts.shape, Image.Resampling.LANCZOS))


def blurred(counts: Array) -> Array:
    return np.asarray(Image.fromarray(counts).filter(ImageFilter.GaussianBlur(1.5)))


SMEARING = {"JPEG 50": jpeg(50), "JPEG 75": jpeg(75), "JPEG 90": jpeg(90), "Lanczos": lanczos, "blur": blurred}


@pytest.mark.parametrize("kind", SMEARING)
@pytest.mark.parametrize("side", [128, 192, 256])
def test_what_smears_into_narrow_margins_is_no_floor(side: int, kind: str) -> None:
    share, counts = box(side)
    assert ((SMEARING[kind](counts) > 0) & (share == 0)).any()
    notes = without_outside(SMEARING[kind](counts), share)[1]
    assert notes == [outside.SMEARS] or (notes == [] and "JPEG" in kind), notes  # where it is too little to be said


@pytest.mark.parametrize("size", [128, 192])
def test_a_plinth_in_a_small_picture_is_detected(size: int, sample_set: Callable[..., Path], tmp_path: Path) -> None:
    """Under a house it nowhere reaches beyond a JPEG's blocks."""
    source = sample_set("house", "--size", size)
    loaded = validated(Case("", lambda f: sensor.floor(f, 0.6)).write(source, tmp_path / "set"), tmp_path)
    notes = loaded.metadata["notes"]
    assert outside.SMEARS not in notes and any("behind the object" in n or outside.BESIDE in n for n in notes), notes


def six(view: Picture, inside: Array) -> tuple[list[Picture], list[str]]:
    return alpha.interpret_alpha([view] * 6, [inside.astype(np.float32)] * 6)


def test_alpha_counts_where_depth_is_everywhere() -> None:
    """A wall behind the object has depth, too."""
    views, notes = six(rgba((0.7, 0.2, 0.2), disc(20)), np.ones((80, 80)))
    assert notes == [] and views[0].alpha == pytest.approx(disc(20), abs=0.003)


def test_a_ring_stays_a_ring_and_a_gap_that_depth_fills_is_filled() -> None:
    ring = disc(30) - disc(12)
    assert six(rgba((0.5, 0.5, 0.5), ring), np.round(ring))[1] == []
    views, notes = six(rgba((0.5, 0.5, 0.5), ring), np.round(disc(30)))
    assert views[0].alpha is not None and views[0].alpha.sum() > 0.98 * disc(30).sum() and "Holes in alpha" in notes[0]


def test_one_picture_of_many_colours_behind_the_object_is_told_to_be_doubtful() -> None:
    noise = np.random.default_rng(0).random((80, 80, 3))
    _, notes = six(rgba(noise, disc(38)), np.round(disc(20)))
    assert any(note.startswith("WARNING") and "alpha was believed" in note for note in notes)


def test_straight_colours_of_one_tone_stay_as_they_are() -> None:
    view = rgba((0.8, 0.6, 0.3), disc(25))
    assert six(view, np.round(disc(25)))[0][0] is view


@pytest.mark.parametrize("behind", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.1, 0.7, 0.2)])
def test_colours_mixed_with_any_one_colour_are_taken_apart(behind: tuple[float, ...]) -> None:
    share = disc(25)[..., None]
    mixed = share * np.array((0.8, 0.4, 0.5)) + (1 - share) * np.array(behind)
    views, notes = six(rgba(mixed, disc(25)), np.round(disc(25)))
    soft = (disc(25) > 0.2) & (disc(25) < 1)
    assert views[0].colour[soft] / 255 == pytest.approx(np.broadcast_to((0.8, 0.4, 0.5), (soft.sum(), 3)), abs=0.03)
    assert "mixed with" in notes[0]


def test_thin_slits_are_no_matting() -> None:
    share = disc(30)
    share[:, 38] = np.minimum(share[:, 38], 0.6)
    assert six(rgba((0.5, 0.4, 0.3), share), np.round(disc(30)))[1] == []


def test_glass_is_taken_for_opaque_with_a_warning() -> None:
    _, notes = six(rgba((0.5, 0.4, 0.3), disc(30) * np.where(np.arange(80) < 40, 1, 0.55)), np.round(disc(30)))
    assert any(note.startswith("WARNING: parts of the object are half transparent") for note in notes)


def test_a_near_plane_through_the_object_is_no_hole() -> None:
    """The smallest value is that of the nearest pixels, as where each render is stretched to its own range."""
    y, x = np.mgrid[0:64, 0:64] - 32
    counts = np.clip(np.hypot(x, y) * 8 - 20, 0, 250).astype(np.uint8)
    picture = Picture(np.where(np.hypot(x, y) < 28, counts, 255).astype(np.uint8)[..., None], 255)
    assert holes._without_invalid(picture, "max") == (picture, 0)


def test_a_shadow_beside_the_object_is_behind_it_whatever_depth_lacks() -> None:
    inside = np.round(disc(25)).astype(np.float32)
    colour = np.where(inside[..., None] > 0, (0.8, 0.2, 0.2), 1.0)
    colour[60:75, 20:60] *= 0.6
    colour[inside > 0] = (0.8, 0.2, 0.2)
    speckled = np.where(np.random.default_rng(0).random(inside.shape) < 0.1, 0, inside).astype(np.float32)
    view = Picture(np.rint(colour * 255).astype(np.uint8), 255)
    completed = holes.complete_outlines([speckled], [view], lambda c, i: masks.WHITE)
    assert completed is not None and np.abs(completed[0] - inside).sum() <= 8


def test_a_ring_s_hole_is_behind_it_although_depth_has_speckles() -> None:
    inside = np.round(disc(30) - disc(12)).astype(np.float32)
    speckled = np.where(np.random.default_rng(0).random(inside.shape) < 0.1, 0, inside).astype(np.float32)
    view = Picture(np.rint(np.where(inside[..., None] > 0, (0.2, 0.3, 0.8), 0.9) * 255).astype(np.uint8), 255)
    completed = holes.complete_outlines([speckled], [view], lambda c, i: np.full(3, 0.9))
    assert completed is not None and completed[0][40, 40] == 0 and np.abs(completed[0] - inside).sum() <= 12


def test_a_trend_is_not_bent_by_what_depth_leaves_out() -> None:
    y, x = np.mgrid[0:80, 0:80] / 80
    behind = np.stack([0.3 + 0.5 * y, 0.6 - 0.2 * x * y, 0.4 + 0.3 * x**2], axis=2)
    colour, inside = behind.copy(), np.round(disc(20))
    colour[30:50, 58:66] = 0
    assert masks.background_polynomial(colour, inside) == pytest.approx(behind, abs=0.02)
    assert masks.VIEW_NAMES == VIEW_NAMES
