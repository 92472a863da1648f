"""The gateway of the test cluster, as its clients see it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from pipeline.clients.workflows import NAME_PREFIX
from tests.cluster.client import SMALL, address, connect_to_store
from tests.cluster.node import kubectl, wait_for
from tests.cluster.places import KUBECONFIG, NAMESPACE

VIEWS = ("front", "back", "left", "right", "top", "bottom")
WORK = {name: int(value) for name, value in SMALL.items()}  # the options of a small job

REACHED: set[tuple[str, str, int]] = set()  # method, route, status: what the API has answered in these tests


def address_of() -> str:
    """URL of the gateway: SIXVIEW_GATEWAY, such as one under a debugger, or the cluster's."""
    return os.environ.get("SIXVIEW_GATEWAY") or f"http://{address('sixview-cpu-gateway', 80)}"


def client(who: str = "alice", base: str = "") -> httpx.Client:
    """An HTTP session with the token of `who`; "": without a token. Adds routes and statuses of its responses to REACHED."""
    headers = {"Authorization": f"Bearer token-of-{who}"} if who else {}
    return httpx.Client(base_url=base or address_of(), headers=headers, timeout=120, event_hooks={"response": [_note]})


def _note(response: httpx.Response) -> None:
    path = re.sub(r"^(?:/api)?/jobs/[^/]+", "/jobs/{job}", response.request.url.path)
    REACHED.add((response.request.method, path.removeprefix("/api"), response.status_code))


def parts(
    folder: Path, order: tuple[str, ...] = VIEWS, names: str = "{view}.png"
) -> list[tuple[str, tuple[str, bytes, str]]]:
    """The twelve files of a set, as a form takes them."""
    fields = {"views": "multi_views", "depth_renders": "depth_renders"}
    return [
        (field, (names.format(view=view, field=field), (folder / inner / f"{view}.png").read_bytes(), "image/png"))
        for field, inner in fields.items()
        for view in order
    ]


def form(**options: Any) -> dict[str, str]:
    model = options.pop("model", "reconviagen")
    return {"model_type": model, "options": json.dumps({**WORK, **options})}


def wait_until_ended(session: httpx.Client, job: str, seconds: float = 600) -> dict[str, Any]:
    """A job's status, once it has ended and its record is there."""
    latest: dict[str, Any] = {}

    def ended() -> dict[str, Any] | None:
        latest.update(session.get(f"/jobs/{job}").raise_for_status().json())
        return latest if latest["status"] in ("completed", "failed", "cancelled") else None

    return wait_for(ended, seconds, lambda: f"the end of {job}, which is {latest}", 1)


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Asserts that the response is this error, in the common form. Returns the error."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"code", "message", "details", "suggestion"}
    assert error["code"] == code, error
    assert error["message"] and error["suggestion"]
    assert "Traceback" not in response.text
    return error


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that announces a size; what it holds is another matter."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def gateways() -> list[str]:
    selector = "app.kubernetes.io/component=gateway"
    listed = json.loads(kubectl("-n", NAMESPACE, "get", "pods", "-l", selector, "-o", "json").stdout)["items"]
    return [p["metadata"]["name"] for p in listed if "deletionTimestamp" not in p["metadata"]]


def patiently(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Repeats a request while no gateway responds, as a client does."""

    def answered() -> httpx.Response | None:
        with contextlib.suppress(httpx.TransportError):
            response = ask()
            return response if response.status_code < 500 else None
        return None

    return wait_for(answered, 60, "a gateway to come back", 1)


# -- gateways of our own, to bring about what the cluster's does not do --------------------------------------------------


@contextlib.contextmanager
def serving(
    folder: Path, *options: str, template: str = "sixview-cpu", probe: str = "/health", **environment: str
) -> Iterator[httpx.Client]:
    """`sixview serve` on this machine, and a session of alice's with it. folder: for its tokens and its log. probe: the path that
    answers 200 first; /health is the chart's readiness probe, /live is for gateways that are never ready."""
    connect_to_store()
    (folder / "alice").write_text(hashlib.sha256(b"token-of-alice").hexdigest())
    port = str(free_port())
    env = {**os.environ, "KUBECONFIG": os.environ.get("KUBECONFIG") or str(KUBECONFIG), **environment}
    words = ["serve", "--port", port, "--namespace", NAMESPACE, "--template", template, "--tokens", str(folder)]
    with open(folder / ".log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli.main", *words, *options], env=env, stdout=log, stderr=log
        )
    try:
        with client("alice", f"http://127.0.0.1:{port}") as session:
            _wait_for_200(session, probe, process)
            (folder / ".pid").write_text(str(process.pid))
            yield session
    finally:
        process.terminate()
        process.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for_200(session: httpx.Client, path: str, process: subprocess.Popen[bytes]) -> None:
    def answers() -> bool:
        assert process.poll() is None, "the gateway has ended"
        with contextlib.suppress(httpx.TransportError):
            return session.get(path).status_code == 200
        return False

    wait_for(answers, 60, f"{path} of the gateway")


def workflow_of(job: str) -> str:
    return NAME_PREFIX + job
