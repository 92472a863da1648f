"""The two optimization passes: convergence to known shapes and materials, and errors without it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from steps.fusion import reconstruct
from steps.geometry import pbr
from steps.geometry.depth_ops import depth_noise
from steps.io import mesh_files, scene
from steps.io.mesh_files import Mesh
from steps.nvdiffrec import losses, memory_levels
from steps.nvdiffrec.drawing import Appearance, render_rgba
from steps.nvdiffrec.first_pass import FirstPass
from steps.nvdiffrec.reconstruct import _iterate, agreement, geometric_loss, psnr, restore, snapshot
from steps.nvdiffrec.run import set_up_torch
from steps.nvdiffrec.second_pass import STRONG, WEAK, Regularization, SecondPass
from steps.nvdiffrec.targets import Target, targets
from steps.runtime.errors import ModelConvergenceFailed
from tests.conftest import Finished


@pytest.fixture(scope="module", autouse=True)
def torch_as_in_the_step() -> Iterator[None]:
    set_up_torch("cpu")
    yield
    torch.use_deterministic_algorithms(False)


def test_gradients_are_the_same_every_time() -> None:
    """Of an index, which torch's threads add up in the order in which they come, unless they are told not to."""
    random = torch.Generator().manual_seed(0)
    faces = torch.randint(0, 12_000, (20_000, 3), generator=random)
    weights, positions = (torch.randn(shape, generator=random) for shape in ((20_000, 3, 3), (12_000, 3)))
    positions.requires_grad_(True)
    gradients = {
        torch.autograd.grad((positions[faces] * weights).sum(), positions)[0].numpy().tobytes() for _ in range(40)
    }
    assert len(gradients) == 1


@pytest.fixture(scope="module")
def views(job: Finished) -> list[Target]:
    return targets(scene.load(job.out / ".sixview" / "scene").views, 128, 0.01, "cpu")


@pytest.fixture(scope="module")
def start(job: Finished) -> Mesh:
    loaded = scene.load(job.out / ".sixview" / "scene")
    return reconstruct.reconstruct(loaded.views, reconstruct.Settings(grid=96, faces=4000, texture_size=256))[0]


def test_the_first_pass_pulls_a_field_that_is_two_cells_too_large_into_place(
    job: Finished, views: list[Target]
) -> None:
    loaded = scene.load(job.out / ".sixview" / "scene")
    field, grid = reconstruct.fuse(loaded.views, reconstruct.Settings(grid=40))
    optimization = FirstPass(field - 1.5, grid, 80, views, "cpu")

    def as_mesh() -> Mesh:
        vertices, _, faces = optimization.mesh()
        blank = np.zeros((len(vertices), 2), np.float32)
        return Mesh(
            vertices.astype(np.float32), faces, blank, vertices.astype(np.float32), np.ones((2, 2, 3), np.float32)
        )

    before = agreement(as_mesh(), views, "cpu")
    for iteration in range(80):
        optimization.step(iteration, views)
    after = agreement(as_mesh(), views, "cpu")
    assert before[0] > 2 and after[0] < 0.3 * before[0]
    assert before[1] < 0.95 and after[1] > 0.98


def test_a_field_without_an_inside_raises_model_convergence_failed(job: Finished, views: list[Target]) -> None:
    loaded = scene.load(job.out / ".sixview" / "scene")
    field, grid = reconstruct.fuse(loaded.views, reconstruct.Settings(grid=40))
    with pytest.raises(ModelConvergenceFailed, match="empty"):
        FirstPass(np.abs(field) + 1, grid, 4, views, "cpu").step(0, views)


def test_the_second_pass_pulls_moved_vertices_and_wrong_colours_back(start: Mesh, views: list[Target]) -> None:
    scaled = start.vertices * np.float32(1.01)
    spoiled = Mesh(scaled, start.faces, start.uv, start.normals, np.clip(start.texture + 0.05, 0, 1))
    optimization = SecondPass(spoiled, 24, views, "cpu")
    history = [optimization.step(i, views, 2, 6) for i in range(optimization.lit_from())]
    optimization.check()
    assert history[-1] < 0.2 * history[0]
    assert geometric_loss(optimization.result(False), views, "cpu") < 0.5 * geometric_loss(spoiled, views, "cpu")


def test_batches_change_memory_and_not_the_result(start: Mesh, views: list[Target]) -> None:
    results = []
    for batch in (1, 6):
        optimization = SecondPass(start, 8, views, "cpu")
        results.append([optimization.step(i, views, 1, batch) for i in range(3)])
    assert results[0] == pytest.approx(results[1], rel=1e-4)


def test_a_pass_goes_on_from_a_snapshot_as_if_it_had_not_stopped(start: Mesh, views: list[Target]) -> None:
    whole = SecondPass(start, 8, views, "cpu")
    straight = [whole.step(i, views, 1, 6) for i in range(4)]
    first, second = SecondPass(start, 8, views, "cpu"), SecondPass(start, 8, views, "cpu")
    for i in range(2):
        first.step(i, views, 1, 6)
    restore(second, snapshot(first))
    assert [second.step(i, views, 1, 6) for i in (2, 3)] == straight[2:]


def test_losses_at_fewer_pixels_do_not_end_the_iterations_at_all_of_them(start: Mesh, views: list[Target]) -> None:
    """Losses at fewer pixels are lower, since small pictures are blurred: early stopping must not compare across resolutions."""
    clock, checkpoint = SimpleNamespace(tick=lambda _=1: None), SimpleNamespace(due=lambda: False)
    job: Any = SimpleNamespace(saved={}, clock=clock, checkpoint=checkpoint, device="cpu")
    optimization = SecondPass(start, 8, views, "cpu")

    def loss(iteration: int) -> float:
        return (0.1 if iteration < 10 else 1.0) * 0.9**iteration

    assert _iterate(job, optimization, "all", 40, loss, restart=10) == 40
    assert _iterate(job, optimization, "stalls", 40, lambda _: 1.0, restart=10) == 10 + 24


@pytest.mark.parametrize(("value", "words"), [(float("nan"), "not numbers"), (10.0, "flew apart")])
def test_a_diverged_mesh_raises_model_convergence_failed(
    start: Mesh, views: list[Target], value: float, words: str
) -> None:
    optimization = SecondPass(start, 8, views, "cpu")
    with torch.no_grad():
        optimization.state.offsets[3] = value
    with pytest.raises(ModelConvergenceFailed, match=words):
        optimization.check()


def test_white_light_and_a_matt_surface_stay_where_colour_explains_everything(start: Mesh, views: list[Target]) -> None:
    optimization = SecondPass(start, 24, views, "cpu")
    for i in range(24):
        optimization.step(i, views, 2, 6)
    material = optimization.result(True).material
    assert material is not None and material.specular < 0.2 and np.abs(material.light[1:]).max() < 0.2
    assert np.abs(material.light - pbr.WHITE).max() > 0  # they were free to go


def test_light_and_reflections_are_found_where_the_colours_are_known(start: Mesh, views: list[Target]) -> None:
    """The views are replaced by pictures of the start under a light from above left, on a shining surface."""
    light = pbr.WHITE.copy()
    light[1], light[3] = (0.3, 0.25, 0.2), (-0.2, -0.1, 0.0)
    optimization = SecondPass(start, 96, views, "cpu")
    s = optimization.state
    truth = Appearance(s.base, s.orm, s.normal, optimization.tangents, torch.tensor(0.6), torch.from_numpy(light))
    with torch.no_grad():
        lit = [replace(view, rgba=render_rgba(optimization.surface(), truth, view, 1)) for view in views]
    first = optimization.lit_from()
    history = [optimization.step(i, lit, 1, 6) for i in range(first, 96)]
    light = s.light.detach().numpy()
    assert history[-1] < 0.2 * history[0]
    assert light[[1, 3], :2] == pytest.approx(light[[1, 3], :2], abs=0.1)  # the duck reflects hardly any blue


def test_memory_kept_for_the_backward_pass_is_as_estimated(start: Mesh, views: list[Target]) -> None:
    """Counted tensor by tensor, which is the same on any device."""
    optimization, view = SecondPass(start, 8, views, "cpu"), views[0]
    saved_bytes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved_bytes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        optimization._loss(view, memory_levels.SAMPLES, False, optimization.state.normal)
    parameters = sum(t.untyped_storage().nbytes() for t in optimization.state.tensors().values())
    samples = view.camera.width * view.camera.height * memory_levels.SAMPLES**2
    assert (
        0.2 * memory_levels.PER_SAMPLE < (sum(saved_bytes.values()) - parameters) / samples < memory_levels.PER_SAMPLE
    )


def test_depth_noise_is_measured_in_pixels() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64] / 64
    depth = (2 + 0.2 * x + 0.1 * y**2).astype(np.float32)
    pixel, step = np.full((64, 64), 0.01), np.full((64, 64), 1e-6)
    assert depth_noise(depth, step, pixel) < 0.02
    noisy = depth + 0.03 * rng.normal(size=depth.shape)
    assert depth_noise(noisy.astype(np.float32), step, pixel) == pytest.approx(3, rel=0.15)
    assert depth_noise(depth, np.full((64, 64), 0.1), pixel) == pytest.approx(10 / 12**0.5, rel=0.01)


def test_the_laplacian_penalizes_bending_and_not_translation() -> None:
    edges = torch.tensor([[0, 1, 0, 0], [1, 2, 0, 0], [2, 3, 0, 0], [3, 0, 0, 0]])
    shifted = torch.ones((4, 3))
    assert float(losses.laplacian(shifted, edges, 1.0)) == pytest.approx(0, abs=1e-12)
    bent = torch.eye(4)[:, :3]  # squares of what each vertex is off its neighbours' mean: 5/4, 3/2, 5/4, 1/2
    assert float(losses.laplacian(bent, edges, 1.0)) == pytest.approx(4.5 / 4)
    assert float(losses.laplacian(bent, edges, 3.0)) == pytest.approx(4.5 / 4 / 9)


def test_texture_smoothness_penalizes_ripples_and_not_a_constant() -> None:
    change = torch.full((4, 4, 3), 0.3)
    assert float(losses.squared_gradient(change)) == 0
    change[1, 1, 0] += 0.5
    assert float(losses.squared_gradient(change)) == pytest.approx(4 * 0.25)


def test_noise_of_the_views_is_not_painted_where_texels_are_held_together(start: Mesh, views: list[Target]) -> None:
    noise = torch.Generator().manual_seed(0)
    noisy = [replace(v, rgba=v.rgba + 0.1 * torch.randn(v.rgba.shape, generator=noise)) for v in views]

    def rippled(regularization: Regularization) -> float:
        optimization = SecondPass(start, 12, noisy, "cpu", regularization)
        for i in range(optimization.lit_from()):
            optimization.step(i, noisy, 1, 6)
        return float(losses.squared_gradient(optimization.state.base.detach() - optimization.paint))

    assert rippled(replace(WEAK, smoothness=STRONG.smoothness)) < 0.5 * rippled(WEAK)


@pytest.mark.parametrize("shift", [(0.0, 0.0, 0.0), (0.0, 0.0, -2.49), (300.0, -40.0, 7.0)])
def test_where_the_world_s_origin_lies_does_not_matter(job: Finished, start: Mesh, shift: tuple[float, ...]) -> None:
    """A camera close to it culls nothing: near and far follow from the depth that a view shows."""
    front = scene.load(job.out / ".sixview" / "scene").views[0]
    pose = front.camera.camera_to_world.copy()
    pose[:3, 3] += shift
    shifted = replace(
        front,
        camera=replace(front.camera, camera_to_world=pose),
        depth_camera=replace(front.depth_camera, camera_to_world=pose),
    )
    mesh = replace(start, vertices=(start.vertices + np.array(shift)).astype(np.float32))
    _, overlap = agreement(mesh, targets([shifted], 128, 0.01, "cpu"), "cpu")
    assert overlap > 0.98


def test_the_candidates_psnr_equals_the_gate_s(job: Finished) -> None:
    """Bit-identical: a candidate that passes here cannot miss the gate through rounding to 8 bits."""
    loaded = scene.load(job.out / ".sixview" / "scene")
    mesh = mesh_files.load(job.out / "reconviagen", loaded.frame)
    gate = json.loads((job.out / "reconviagen" / "quality.json").read_text())["psnr"]
    assert round(psnr(mesh, loaded, "cpu"), 6) == gate
