"""What a week of jobs and a bucket full of drops cost the service: memory of the gateway, the command and the intake, and time.

The workflows are copies of a real finished one of the test cluster, in an API server of the benchmark's own. WORKFLOWS and DROPS
may be given by the environment: 5,000 workflows fill 13 GB of the API server's own memory."""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from pipeline.clients import s3, workflows
from pipeline.incluster import exit_handler, markers
from pipeline.jobs import failure, records
from pipeline.jobs import status as job_status
from tests.benchmarks import servers
from tests.benchmarks.records import Run
from tests.cluster import client
from tests.cluster.node import kubectl, wait_for
from tests.cluster.places import NAMESPACE
from tests.cluster.web import free_port

HEADERS = {"Authorization": f"Bearer {servers.TOKEN}"}
QUEUED = 50
REQUESTS, CHANGED = 200, 40
Row = list[object]  # what is measured, how much, its unit, and how much it may be


def main(run: Run) -> None:
    real = finished_workflow(run.size("both", "reconviagen"))
    jobs, drops = (int(run.variable(n, run.size(*s))) for n, s in (("WORKFLOWS", (5000, 20)), ("DROPS", (20000, 20))))
    with tempfile.TemporaryDirectory() as name, servers.api_server(Path(name)) as config:
        size = fill(config, real, jobs)
        rows = [*gateway(config, jobs), *command(config)]
    with (
        tempfile.TemporaryDirectory() as name,
        servers.api_server(Path(name)) as config,  # the other one had 12 GB by now
        servers.store(Path(name)) as environment,
    ):
        copy_template(config)
        fill_drops(drops)
        rows += intake(config, environment)
    title = f"{jobs} jobs of {size / 1000:.0f} kB and {QUEUED} in the queue, {drops} drops"
    run.table(title, ("what", "measured", "unit", "may be"), rows)


# -- workflows ----------------------------------------------------------------------------------------------------------


def finished_workflow(models: str) -> dict[str, Any]:
    """The largest finished job of the test cluster; one is made where there is none."""
    listed = json.loads(kubectl("-n", NAMESPACE, "get", "workflows", "-l", FINISHED, "-o", "json").stdout)["items"]
    if not listed:
        name = client.submit(model=models)
        listed = [client.finished(name, 1500)]
    return dict(max(listed, key=lambda found: len(json.dumps(found))))


FINISHED = "app.kubernetes.io/name=sixview,workflows.argoproj.io/completed=true"


def record_of(real: dict[str, Any], name: str, recorded: bool = True) -> dict[str, Any]:
    """A copy under another name, with the record that its exit handler leaves, or without."""
    found = copy.deepcopy(real)
    text = json.dumps(found).replace(real["metadata"]["name"], name)
    found = json.loads(text)
    for field in ("resourceVersion", "uid", "managedFields", "generateName", "ownerReferences"):
        found["metadata"].pop(field, None)
    annotations = found["metadata"].setdefault("annotations", {})
    annotations.pop(job_status.RECORD, None)
    if recorded:
        values = failure.describe(found, [], found["status"]["phase"])
        annotations[job_status.RECORD] = records.annotation(workflows.read(found), exit_handler.ending(values))
    return dict(found)


def queued(real: dict[str, Any], number: int) -> dict[str, Any]:
    found = record_of(real, f"sixview-queue{number:03d}", recorded=False)
    found["metadata"]["labels"] = {"app.kubernetes.io/name": "sixview"}
    found["status"] = {"phase": "Pending", "message": "Waiting for a lock"}
    return found


def fill(config: Path, real: dict[str, Any], count: int) -> int:
    """Copies of a job that has ended, and some that wait. Returns the bytes of one."""
    pattern = json.dumps(record_of(real, "sixview-PLACE000"), separators=(",", ":"))
    names = [f"a{i:07d}" for i in range(count)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda part: _fill(config, pattern, part), (names[i::4] for i in range(4))))
    line = connection(config)
    for i in range(QUEUED):
        send(line, json.dumps(queued(real, i)))
    return len(pattern)


def _fill(config: Path, pattern: str, names: list[str]) -> None:
    line = connection(config)
    for name in names:
        send(line, pattern.replace("PLACE000", name))


def connection(config: Path) -> http.client.HTTPSConnection:
    server = json.loads(config.read_text())["clusters"][0]["cluster"]["server"]
    return http.client.HTTPSConnection(urlsplit(server).netloc, context=ssl._create_unverified_context())


def send(line: http.client.HTTPSConnection, body: str) -> None:
    path = f"/apis/argoproj.io/v1alpha1/namespaces/{NAMESPACE}/workflows"
    line.request("POST", path, body, HEADERS | {"Content-Type": "application/json"})
    answer = line.getresponse()
    text = answer.read()
    assert answer.status == 201, text[:500]


# -- the gateway --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(config: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """`sixview serve` as a process of its own."""
    port = free_port()
    words = ["serve", "--port", str(port), "--namespace", NAMESPACE, "--no-auth"]
    env = {**os.environ, "KUBECONFIG": str(config)}
    process = subprocess.Popen([sys.executable, "-m", "pipeline.cli.main", *words], env=env)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as session:
            yield process, session
    finally:
        process.terminate()
        process.wait(timeout=60)


def gateway(config: Path, jobs: int) -> Iterator[Row]:
    began = time.monotonic()
    with serving(config) as (process, session):
        wait_for(lambda: _lists(session), 600, "the gateway to start", 0.1)
        yield ["the gateway's start, until GET /jobs answers", time.monotonic() - began, "s", 30]
        yield ["its memory at its most", peak(process.pid), "MiB", 200]
        yield [f"GET /jobs, p95 of {REQUESTS}", p95(waits(session, "/jobs")), "ms", 150]
        yield ["GET /jobs?limit=1000, p95 of 20", p95(waits(session, "/jobs?limit=1000", 20)), "ms", ""]
        yield ["GET /jobs/{queued}, with its place, p95", p95(waits(session, "/jobs/queue049")), "ms", ""]
        session.get("/health")  # as the probes ask: it looks at the nodes too
        changed = disturb(config, min(CHANGED, jobs))
        time.sleep(5)
        yield [f"GET /jobs after {changed} changes, p95", p95(waits(session, "/jobs")), "ms", 150]
        yield ["the gateway's memory at its most since", peak(process.pid), "MiB", 200]


def _lists(session: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return session.get("/jobs").status_code == 200
    return False


def disturb(config: Path, count: int) -> int:
    """A change of so many workflows within seconds, each an event of the watch with the whole of it."""
    for i in range(count):
        change = json.dumps({"metadata": {"annotations": {"changed": str(time.time())}}})
        servers.kubectl(config, "-n", NAMESPACE, "patch", "workflow", f"sixview-a{i:07d}", "--type=merge", "-p", change)
    return count


def waits(session: httpx.Client, path: str, count: int = REQUESTS) -> list[float]:
    found = []
    for _ in range(count):
        began = time.perf_counter()
        assert session.get(path).status_code == 200
        found.append(time.perf_counter() - began)
    return found


def p95(seconds: list[float]) -> float:
    """Milliseconds."""
    return 1000 * sorted(seconds)[int(0.95 * len(seconds))]


def peak(pid: int) -> float:
    """MiB of resident memory at its most."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# -- commands -----------------------------------------------------------------------------------------------------------


def measured(words: list[str], **environment: str) -> tuple[float, float]:
    """Seconds, and MiB at its most, of a Python process that ends well."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, *words], env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{words} ended with {process.returncode}"
    return time.monotonic() - began, usage.ru_maxrss / 1024


def command(config: Path) -> Iterator[Row]:
    for words in (["list"], ["status", "queue049"]):
        seconds, memory = measured(["-m", "pipeline.cli.main", *words, "-n", NAMESPACE], KUBECONFIG=str(config))
        yield [f"sixview {' '.join(words)}", seconds, "s", ""]
        yield ["its memory at its most", memory, "MiB", ""]


# -- the intake ---------------------------------------------------------------------------------------------------------


def copy_template(config: Path) -> None:
    """The intake looks whether there is the template of its jobs: that of the test cluster."""
    found = json.loads(kubectl("-n", NAMESPACE, "get", "workflowtemplate", "sixview", "-o", "json").stdout)
    found["metadata"] = {"name": found["metadata"]["name"]}
    path = config.with_name("template.json")
    path.write_text(json.dumps(found))
    servers.kubectl(config, "-n", NAMESPACE, "create", "-f", str(path))


def fill_drops(count: int) -> None:
    """Drops that ended long ago: a marker, its job's record, and a mark."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(_drop, range(count)))


def _drop(number: int) -> None:
    name = f"object-{number:06d}"
    key = f"{s3.DROPS}{name}/_READY.json"
    answer = s3.client().put_object(Bucket=s3.bucket(), Key=key, Body=b"{}")
    drop = markers.Drop(name, key, answer["ETag"].strip('"'), answer.get("VersionId", ""), "")
    s3.write_json(s3.record_key(drop.job), {"job_id": drop.job, "status": "completed"})
    s3.write_json(f"{s3.DROPS}{name}/_DONE.json", {"job_id": drop.job, "status": "completed"})


def intake(config: Path, environment: dict[str, str]) -> list[Row]:
    seconds, memory = measured(
        ["-m", "pipeline.incluster.intake", NAMESPACE, "sixview"], KUBECONFIG=str(config), **environment
    )
    return [["the intake, over all drops", seconds, "s", ""], ["its memory at its most", memory, "MiB", 128]]
