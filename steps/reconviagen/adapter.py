"""The program that runs the published model, in the environment of its package: Python 3.10 and the model's own torch.

It imports nothing of this project. Input is a JSON file, output are files and an exit code:

    python adapter.py JOB.json

JOB.json: {"task": "generate" | "refine", "images": [six PNGs, RGB over black, square], "weights": folder, "parts": {hub id:
folder below weights}, "may_lack", "may_add": {part: [patterns]}, "device", "seed", "mode", "structure", "latent": settings of
the samplers, "batch": views encoded at a time, "low_vram", "cameras": {"extrinsics", "intrinsics"} for refine, "out": folder,
"parent": the process that this one ends with}

In `out`: events.jsonl, a line for each change of stage and each step of a sampler; mesh.npz (vertices (n, 3), faces (m, 3),
colours (n, 3)); state.pt, what refine goes on from; result.json, what ran and with what; failure.json, {"code", "message",
"details"}. Exit codes are those of steps/runtime/errors.py: 14 weights, 20 and 21 memory, 23 GPU, 1 anything else.
"""

from __future__ import annotations

import contextlib
import ctypes
import fnmatch
import inspect
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXIT = {"WEIGHTS_MISSING": 14, "MODEL_VRAM_OOM": 20, "MODEL_OOM": 21, "GPU_UNAVAILABLE": 23, "MODEL_FAILED": 1}


class Failure(Exception):
    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details


class Events:
    """Writer of events.jsonl, which the supervising step reads meanwhile."""

    def __init__(self, out: Path) -> None:
        self.path = out / "events.jsonl"

    def tell(self, **event: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(event) + "\n")


def main(path: str) -> int:
    job = json.loads(Path(path).read_text())
    job["out"], job["weights"] = Path(job["out"]), Path(job["weights"])
    job["out"].mkdir(parents=True, exist_ok=True)
    end_with(job["parent"])
    try:
        work(job, Events(job["out"]))
        return 0
    except BaseException as error:  # whatever it is, the step must hear of it
        failure = classified(error)
        if failure.code == "MODEL_FAILED":
            traceback.print_exc()
        write(
            job["out"], "failure.json", {"code": failure.code, "message": failure.message, "details": failure.details}
        )
        return EXIT[failure.code]


def end_with(parent: int) -> None:
    """Ends this program when the process `parent` ends, even by SIGKILL: otherwise it would keep the device's memory."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it was gone before
        raise SystemExit(EXIT["MODEL_FAILED"])


def classified(error: BaseException) -> Failure:
    if isinstance(error, Failure):
        return error
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.cuda.OutOfMemoryError):
        return Failure("MODEL_VRAM_OOM", str(error).splitlines()[0])
    if isinstance(error, MemoryError):
        return Failure("MODEL_OOM", "The system has no more memory for the model.")
    if isinstance(error, FileNotFoundError):
        return Failure("WEIGHTS_MISSING", f"A file of the weights is not there: {error.filename}")
    return Failure("MODEL_FAILED", f"{type(error).__name__}: {error}".splitlines()[0])


def work(job: dict[str, Any], events: Events) -> None:
    events.tell(stage="weight_loading")
    torch = torch_for(job["device"])
    pipe = loaded(job, torch)
    images = [pictured(name) for name in job["images"]]
    torch.manual_seed(job["seed"])
    steps = job["structure"]["steps"] + job["latent"]["steps"]
    counted(pipe, events, steps)
    encoded_in_batches(pipe, torch, job["batch"])
    if job["low_vram"]:
        one_at_a_time(pipe, torch, job["device"])
    events.tell(stage="inference")
    with gpu_timed(job, torch):
        outputs = generate(pipe, images, job, torch) if job["task"] == "generate" else refine(pipe, images, job, torch)
    events.tell(stage="export")
    saved(outputs, job["out"])
    peak = int(torch.cuda.max_memory_allocated() >> 20) if job["device"] == "cuda" else 0
    name = torch.cuda.get_device_name() if job["device"] == "cuda" else "CPU"
    write(job["out"], "result.json", {"torch": torch.__version__, "device_name": name, "peak_vram_mib": peak})


@contextlib.contextmanager
def gpu_timed(job: dict[str, Any], torch: Any) -> Iterator[None]:
    """Leaves gpu_seconds.json: the time between two events in the GPU's stream, around what it computes meanwhile."""
    if job["device"] != "cuda":
        yield
        return
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    yield
    ended.record()
    ended.synchronize()
    write(job["out"], "gpu_seconds.json", begun.elapsed_time(ended) / 1000)


def torch_for(device: str) -> Any:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise Failure("GPU_UNAVAILABLE", f"The model's torch {torch.__version__} finds no GPU.")
    return torch


# -- weights ------------------------------------------------------------------------------------------------------------


def loaded(job: dict[str, Any], torch: Any) -> Any:
    """The pipeline from local files only, with every parameter where it belongs."""
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", ATTN_BACKEND="xformers", SPCONV_ALGO="native")
    folders = {name: job["weights"] / folder for name, folder in job["parts"].items()}
    answered_locally(folders, torch)
    key_differences = strictly(torch)
    try:
        from trellis.pipelines import TrellisVGGTTo3DPipeline
    except ImportError as error:
        raise Failure("MODEL_FAILED", f"The model's package cannot be loaded: {error}") from None
    pipe = TrellisVGGTTo3DPipeline.from_pretrained(str(job["weights"] / "pipeline"))
    raise_unless_all_fit(key_differences, job)
    if not job["low_vram"]:
        pipe.to(torch.device(job["device"]))
    return pipe


def answered_locally(folders: dict[str, Path], torch: Any) -> None:
    """Patches hub downloads to return local folders. A missing one is an error, never a download."""

    def place(name: str) -> str:
        if name in folders:
            return str(folders[name])
        if Path(name).exists():
            return name
        raise Failure("WEIGHTS_MISSING", f"The model asks for {name}, which is not among the weights.", missing=[name])

    with contextlib.suppress(ImportError):
        import huggingface_hub

        huggingface_hub.snapshot_download = lambda repo_id, **_: place(repo_id)
        huggingface_hub.hf_hub_download = lambda repo_id, filename, **_: str(Path(place(repo_id)) / filename)
    hub: Any = torch.hub
    official = hub.load
    hub.load = lambda repo, *args, **kwargs: official(place(repo), *args, **{**kwargs, "source": "local"})

    def from_url(url: str, *_: Any, map_location: Any = "cpu", **__: Any) -> Any:
        """DINOv2 names its weights by their addresses: the file of that name, anywhere among ours."""
        name = url.rsplit("/", 1)[-1]
        files = [path for folder in folders.values() for path in folder.rglob(name)]
        return torch.load(files[0] if files else place(name), map_location=map_location)

    hub.load_state_dict_from_url = from_url


def strictly(torch: Any) -> list[tuple[str, list[str], list[str]]]:
    """Patches load_state_dict to record missing and unexpected parameters of each load, also with strict=False."""
    key_differences: list[tuple[str, list[str], list[str]]] = []
    official = torch.nn.Module.load_state_dict

    def load(module: Any, state: Any, strict: bool = True, **more: Any) -> Any:
        try:
            result = official(module, state, strict=False, **more)
        except RuntimeError as error:  # parameters of another shape
            raise Failure(
                "WEIGHTS_MISSING", f"The weights do not fit the model's code: {' '.join(str(error).split())}"
            ) from None
        key_differences.append((type(module).__name__, list(result.missing_keys), list(result.unexpected_keys)))
        return result

    torch.nn.Module.load_state_dict = load
    return key_differences


def raise_unless_all_fit(key_differences: list[tuple[str, list[str], list[str]]], job: dict[str, Any]) -> None:
    lacking: list[str] = []
    strange: list[str] = []
    for name, missing, unexpected in key_differences:
        lacking += [f"{name}.{key}" for key in missing if not listed(key, job["may_lack"])]
        strange += [f"{name}.{key}" for key in unexpected if not listed(key, job["may_add"])]
    if lacking or strange:
        words = ["missing: " + ", ".join(lacking[:5])] if lacking else []
        words += ["unexpected: " + ", ".join(strange[:5])] if strange else []
        message = f"The weights do not fit the model's code: {'; '.join(words)}."
        raise Failure("WEIGHTS_MISSING", message, missing_keys=lacking, unexpected_keys=strange)


def listed(key: str, patterns: dict[str, list[str]]) -> bool:
    return any(fnmatch.fnmatch(key, pattern) for part in patterns.values() for pattern in part)


# -- memory and progress ------------------------------------------------------------------------------------------------


def counted(pipe: Any, events: Events, total: int) -> None:
    """Patches the samplers to write an event for each step."""
    done = [0]
    for sampler in (pipe.sparse_structure_sampler, pipe.slat_sampler):

        def once(*args: Any, _official: Any = sampler.sample_once, **kwargs: Any) -> Any:
            result = _official(*args, **kwargs)
            done[0] += 1
            events.tell(done=min(done[0], total), total=total)
            return result

        sampler.sample_once = once


def encoded_in_batches(pipe: Any, torch: Any, batch: int) -> None:
    """Patches the image encoder to process `batch` views at a time."""
    official = pipe.encode_image

    def encode(images: Any) -> Any:
        if not isinstance(images, (list, tuple)) or len(images) <= batch:
            return official(images)
        return torch.cat([official(list(images[k : k + batch])) for k in range(0, len(images), batch)])

    pipe.encode_image = encode


def one_at_a_time(pipe: Any, torch: Any, device: str) -> None:
    """Keeps only the running network on the device, the others in main memory."""
    on_device: list[Any] = []

    def fetch(module: Any, _inputs: Any) -> None:
        if module in on_device:
            return
        for other in on_device:
            other.to("cpu")
        on_device[:] = [module]
        module.to(device)

    for model in pipe.models.values():
        model.to("cpu")
        model.register_forward_pre_hook(fetch)
    type(pipe).device = property(lambda _self: torch.device(device))


# -- the model ----------------------------------------------------------------------------------------------------------


def pictured(path: str) -> Any:
    from PIL import Image

    return Image.open(path).convert("RGB")


def generate(pipe: Any, images: list[Any], job: dict[str, Any], torch: Any) -> Any:
    outputs, coords, noise = pipe.run(
        image=images,
        seed=job["seed"],
        formats=["mesh"],
        preprocess_image=False,  # done already, with the masks and the framing that the scene has
        mode=job["mode"],
        sparse_structure_sampler_params=job["structure"],
        slat_sampler_params=job["latent"],
    )
    torch.save({"coords": coords, "ss_noise": noise}, job["out"] / "state.pt")
    return outputs


def refine(pipe: Any, images: list[Any], job: dict[str, Any], torch: Any) -> Any:
    """Refines the mesh that generate left, with the cameras in the object's frame."""
    state = torch.load(job["out"] / "state.pt", map_location=job["device"])
    cameras = {k: torch.tensor(v, dtype=torch.float32, device=job["device"]) for k, v in job["cameras"].items()}
    wanted = dict(
        image=images,
        seed=job["seed"],
        formats=["mesh"],
        mode=job["mode"],
        sparse_structure_sampler_params=job["structure"],
        slat_sampler_params=job["latent"],
        **state,
        **cameras,
    )
    known = inspect.signature(pipe.run_refine).parameters
    missing = [name for name in ("image", "extrinsics", "intrinsics") if name not in known]
    if missing:
        raise Failure("MODEL_FAILED", f"run_refine of this revision does not take {', '.join(missing)}.")
    result = pipe.run_refine(**{name: value for name, value in wanted.items() if name in known})
    return result[0] if isinstance(result, tuple) else result


def saved(outputs: Any, out: Path) -> None:
    """Writes the first sample's mesh, whose vertices have colours and normals in [0, 1], or colours alone."""
    import numpy as np

    mesh = outputs["mesh"][0]
    vertices, faces, attributes = (array(getattr(mesh, name)) for name in ("vertices", "faces", "vertex_attrs"))
    colours = np.clip(attributes[:, :3], 0, 1) if attributes is not None else np.full(vertices.shape, 0.7)
    np.savez(out / "mesh.npz", vertices=vertices, faces=faces.astype(np.int32), colours=colours)


def array(tensor: Any) -> Any:
    return None if tensor is None else tensor.detach().float().cpu().numpy()


def write(out: Path, name: str, content: Any) -> None:
    (out / name).write_text(json.dumps(content))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
