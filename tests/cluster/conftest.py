"""The cluster, once per session, and jobs that several tests look at."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.cluster import client, node, web
from tests.cluster.client import ended_pods, finished, kill_container, submit, working_pod
from tests.cluster.node import kubectl
from tests.cluster.places import CACHE, NAMESPACE, ROOT
from tests.conftest import need

PROCESS = os.environ.get("PYTEST_XDIST_WORKER", "")  # which of several this is


# files whose tests use the same jobs, or the same gateway's tokens: they follow each other, on one of several processes
GROUPS = {
    "succeeded": ("test_access", "test_published", "test_server", "test_success"),
    "http": (
        "test_bad_objects",
        "test_figures",
        "test_gateway",
        "test_gateway_bodies",
        "test_gateway_results",
        "test_openapi",
        "test_page",
    ),
    "commands": ("test_commands", "test_options", "test_waiting"),
}


class InGroups(LoadScopeScheduling):
    """A process takes a file of tests at a time, or all files of one of the GROUPS."""

    def _split_scope(self, nodeid: str) -> str:
        stem = Path(nodeid.split("::")[0]).stem
        return next((group for group, files in GROUPS.items() if stem in files), stem)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return InGroups(config, log)


def begin() -> None:
    """Starts to build and start the cluster while other tests still run. With several processes `python -m tests` has done so."""
    if hasattr(begin, "process") or node.missing() or os.environ.get("KUBECONFIG") or PROCESS:
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "up.log", "wb") as log:
        begin.process = subprocess.Popen(  # type: ignore[attr-defined]
            [sys.executable, "-m", "tests.cluster", "up"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the cluster's state to the report of a failed test."""
    report = yield
    if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
        report.sections.append(("the cluster", state_of_cluster()))
    return report


def state_of_cluster() -> str:
    """Newest workflows, unfinished pods and last events, as text."""
    jobs = "-n", NAMESPACE, "get", "workflows", "--sort-by=.metadata.creationTimestamp", "-o"
    fields = "metadata.name", "status.phase", "status.message", "spec.shutdown", "spec.suspend", "spec.priority"
    columns = "custom-columns=" + ",".join(f"{field}:.{field}" for field in fields)
    pods = "get", "pods", "-A", "--field-selector=status.phase!=Succeeded,status.phase!=Failed", "-o", "wide"
    events = "-n", NAMESPACE, "get", "events", "--sort-by=.lastTimestamp", "--no-headers"
    try:
        outputs = [kubectl(*words, check=False).stdout for words in ((*jobs, columns), pods, events)]
    except (OSError, subprocess.SubprocessError) as error:  # the cluster may be what failed
        return f"cannot be asked: {error}"
    return "\n\n".join("\n".join(text.splitlines()[-40:]) for text in outputs)


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """A cluster with everything installed. An existing one is taken where KUBECONFIG names it; there `python -m tests.cluster
    install` has been run."""
    if not os.environ.get("KUBECONFIG"):
        need(not node.missing(), f"a cluster, for which this machine lacks {', '.join(node.missing())}")
        if PROCESS:
            node.wait_for(node.is_well, 60, "the node to answer")
        elif begin.process.wait(timeout=3600):  # type: ignore[attr-defined]
            pytest.fail(f"the cluster did not start:\n{(CACHE / 'up.log').read_text()[-4000:]}")
    client.connect_to_store()
    yield


@pytest.fixture(scope="session")
def inputs(
    request: pytest.FixtureRequest,
    cluster: None,
    sample_set: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """Sets in the store: a good one as a folder and as a .zip, and one for each way to be bad. Returns their prefix.

    The jobs of FAULTS are submitted at once, last in Argo's queue: they run wherever a test waits, and are judged later."""
    faults = any("fault" in getattr(item, "fixturenames", ()) for item in request.session.items)
    common = tmp_path_factory.getbasetemp().parent if PROCESS else tmp_path_factory.getbasetemp()
    with open(common / "begun.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first of several processes does it for all
        begun = common / "begun.json"
        if not begun.exists():
            put_inputs(sample_set, tmp_path_factory)
            names = FAULTS if faults else {}
            begun.write_text(json.dumps({name: submit(names[name][0], queue=-100, **names[name][1]) for name in names}))
        BEGUN.update(json.loads(begun.read_text()))
    return "s3://sixview/inputs"


def put_inputs(sample_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("inputs")
    mug = folder / "mug"
    for part in ("multi_views", "depth_renders"):
        shutil.copytree(sample_set("mug") / part, mug / part)
    shutil.copy(sample_set("mug") / "cameras.json", mug)
    shutil.copytree(sample_set("duck"), folder / "duck", ignore=shutil.ignore_patterns("ground_truth", "sample.json"))
    with zipfile.ZipFile(folder / "mug.zip", "w") as archive:
        for path in mug.rglob("*.*"):
            archive.write(path, path.relative_to(mug))
    for name, damage in DAMAGES.items():
        shutil.copytree(mug, folder / name)
        damage(folder / name)
    client.put_folder(folder, "inputs")


def _one_too_few(folder: Path) -> None:
    (folder / "multi_views" / "back.png").unlink()


def _too_large(folder: Path) -> None:
    with open(folder / "multi_views" / "back.png", "ab") as file:
        file.write(bytes(21 << 20))


def _not_a_png(folder: Path) -> None:
    Image.new("RGB", (128, 128)).save(folder / "multi_views" / "back.png", "JPEG")


def _of_another_size(folder: Path) -> None:
    Image.new("RGBA", (64, 96)).save(folder / "multi_views" / "back.png")


DAMAGES = {
    "INVALID_FILE_COUNT": _one_too_few,
    "FILE_TOO_LARGE": _too_large,
    "INVALID_FILE_FORMAT": _not_a_png,
    "VALIDATION_FAILED": _of_another_size,
}

# -- what goes wrong ----------------------------------------------------------------------------------------------------

BEGUN: dict[str, str] = {}  # name in FAULTS -> workflow
# seeds: see faults/faults.py. name: (template, parameters)
FAULTS: dict[str, tuple[str, dict[str, object]]] = {
    "kernel": ("sixview-cpu", {"seed": 7001}),
    "guard": ("sixview-cpu", {"seed": 7003}),
    "vram": ("sixview-cpu", {"seed": 7004, "model": "nvdiffrec"}),
    "exception": ("sixview-cpu", {"seed": 7005}),
    "divergence": ("sixview-cpu", {"seed": 7006}),
    "timeout": ("sixview-hasty", {"seed": 7002}),
    "quality": ("sixview-cpu", {"psnr_threshold": 99}),
    "both": ("sixview-cpu", {"psnr_threshold": 99, "model": "both"}),
    "image": ("sixview-broken", {}),
    "refused_output": ("sixview-readonly", {}),
    "refused_input": ("sixview-readonly", {"source": "s3://private/mug"}),
    "no_address": ("sixview-cpu", {"source": "mug.zip"}),
    **{code: ("sixview-cpu", {"source": f"s3://sixview/inputs/{code}"}) for code in DAMAGES},
    # these two succeed in the end
    "hungry": ("sixview-cpu", {"seed": 7009}),
    "lower_level": ("sixview-cpu", {"seed": 7010, "model": "nvdiffrec"}),
    "zip": ("sixview-cpu", {"source": "s3://sixview/inputs/mug.zip"}),
}


@pytest.fixture(scope="session")
def fault(inputs: str) -> Callable[[str], dict[str, Any]]:
    """fault("kernel") -> the finished workflow."""
    done: dict[str, dict[str, Any]] = {}

    def get(name: str) -> dict[str, Any]:
        if name not in done:
            done[name] = finished(BEGUN[name], 1500)
        return done[name]

    return get


@pytest.fixture(scope="session")
def killed(inputs: str) -> dict[str, Any]:
    """A job whose every container of the model was killed as a whole."""
    need(not os.environ.get("KUBECONFIG"), "a node of its own, whose containers it can kill")
    name = submit(seed=7002)
    seen: tuple[str, ...] = ()
    for _attempt in range(2):  # the values allow one more attempt after a kill
        pod = working_pod(name, "reconviagen-pod", seen)
        kill_container(pod)
        seen += (pod["metadata"]["uid"],)
    return finished(name)


@pytest.fixture(scope="session")
def succeeded(inputs: str, fault: object) -> Callable[[str], dict[str, Any]]:
    """succeeded("both") -> the finished workflow on the release with GPUs, and its pods as they ended. All are submitted at once,
    and share one GPU."""
    names = {model: submit("sixview", model=model) for model in ("both", "reconviagen", "nvdiffrec")}
    done = {model: finished(name, 1500) for model, name in names.items()}
    for wf in done.values():
        wf["pods"] = ended_pods(wf["metadata"]["name"])  # Kubernetes forgets them after a while
    return done.__getitem__


# -- jobs over HTTP -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def mug(inputs: str, sample_set: Callable[..., Path]) -> Path:
    return sample_set("mug")


@pytest.fixture(scope="module")
def alice(cluster: None) -> Iterator[httpx.Client]:
    with web.client("alice") as session:
        yield session


@pytest.fixture(scope="session")
def done(mug: Path) -> dict[str, Any]:
    """A job that was submitted without cameras.json, by parts that are all called view.png, and has ended."""
    with web.client("alice") as alice:
        sent = alice.post("/api/jobs/", data=web.form(), files=web.parts(mug, names="view.png"))
        assert sent.status_code == 200, sent.text
        return web.wait_until_ended(alice, sent.json()["job_id"])


@pytest.fixture(scope="session")
def failed(mug: Path) -> dict[str, Any]:
    """A job whose mesh does not pass the gate."""
    with web.client("alice") as alice:
        sent = alice.post("/jobs", data=web.form(**{"psnr-threshold": 99}), files=web.parts(mug))
        return web.wait_until_ended(alice, sent.json()["job_id"])
