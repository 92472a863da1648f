"""Helpers that submit jobs, wait for them and read their results, with the commands of a user."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.clients import s3
from pipeline.jobs import status
from pipeline.jobs.nodes import attempt_number, outputs, step_nodes
from tests.cluster.node import CGROUP, CGROUPS, kubectl, wait_for
from tests.cluster.places import BIN, KUBECONFIG, NAMESPACE

BUCKET = "sixview"
ENDED = ("Succeeded", "Failed", "Error")
SMALL = {"grid": "64", "faces": "2000", "iterations": "6"}  # what makes a job of a 128 px set small


def argo(*arguments: str, check: bool = True) -> str:
    """Runs Argo's own command line."""
    kubeconfig = os.environ.get("KUBECONFIG") or str(KUBECONFIG)
    command = [str(BIN / "argo"), "--kubeconfig", kubeconfig, "-n", NAMESPACE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if check and done.returncode:
        raise RuntimeError(f"argo {' '.join(arguments)} failed: {done.stderr}{done.stdout}")
    return done.stdout


def submit(
    template: str = "sixview-cpu", source: str = "s3://sixview/inputs/mug", queue: int = 0, **parameters: object
) -> str:
    """argo submit --from workflowtemplate/...; returns the workflow's name. queue: its priority among those that wait."""
    arguments = {**SMALL, **{name.replace("_", "-"): str(value) for name, value in parameters.items()}, "input": source}
    options = [word for name, value in arguments.items() for word in ("-p", f"{name}={value}")]
    words = ("submit", "--from", f"workflowtemplate/{template}", "--priority", str(queue), *options, "-o", "name")
    return argo(*words).strip().splitlines()[-1]


def listed(selector: str) -> set[str]:
    """Names of workflows, by `argo list`. Argo counts and lists in two requests: where a workflow is deleted between them, it
    asks for a page that is not there, and fails."""
    command = "list", "-l", selector, "-o", "name"
    for _attempt in range(3):
        try:
            return set(argo(*command).split())
        except RuntimeError as error:
            if "invalid continue token" not in str(error):
                raise
    return set(argo(*command).split())


def workflow(name: str) -> dict[str, Any]:
    return dict(json.loads(kubectl("-n", NAMESPACE, "get", "workflow", name, "-o", "json").stdout))


def finished(name: str, seconds: float = 600) -> dict[str, Any]:
    """The workflow after it and its exit handler have ended. Raises TimeoutError after `seconds` times SLOWNESS."""

    def ended() -> dict[str, Any] | None:
        wf = workflow(name)
        return wf if wf.get("status", {}).get("phase") in ENDED else None

    return wait_for(ended, seconds, lambda: f"the end of {name}:\n{argo('get', name, check=False)}", 1)


def ended_without_pods(name: str, template: str, end_pod: Callable[[str], object]) -> dict[str, Any]:
    """The workflow after `end_pod` was called for every running pod of a template, until it ended."""
    running_pod(name, template)

    def has_ended() -> bool:
        if workflow(name)["status"].get("phase") in ENDED:
            return True
        time.sleep(12)  # Argo simply makes a pod anew that is lost in its first ten seconds
        for pod in pods_of(name, template):
            if "running" in main_state(pod):
                end_pod(pod["metadata"]["name"])
        return False

    wait_for(has_ended, 600, f"the end of {name}")
    return workflow(name)


def describe_nodes(wf: dict[str, Any]) -> str:
    """Phase and message of a workflow and its unsuccessful nodes, for assertion messages."""
    status = wf["status"]
    bad = [n for n in status.get("nodes", {}).values() if n["phase"] not in ("Succeeded", "Skipped", "Omitted")]
    lines = [f"{n['displayName']} ({n['type']}): {n['phase']}: {n.get('message', '')}" for n in bad]
    return "\n".join([f"{status['phase']}: {status.get('message', '')}", *lines])


def pods_of(name: str, template: str = "") -> list[dict[str, Any]]:
    """The workflow's pods of a template, oldest first."""
    listed = kubectl(
        "-n", NAMESPACE, "get", "pods", "-l", f"workflows.argoproj.io/workflow={name}", "-o", "json"
    ).stdout
    pods = sorted(json.loads(listed)["items"], key=lambda pod: pod["metadata"]["creationTimestamp"])
    return [pod for pod in pods if f"-{template}-" in pod["metadata"]["name"]] if template else pods


def running_pod(name: str, template: str, besides: tuple[str, ...] = (), seconds: float = 300) -> dict[str, Any]:
    """A pod of that template whose main container runs."""

    def running() -> list[dict[str, Any]]:
        return [
            pod
            for pod in pods_of(name, template)
            if pod["metadata"]["uid"] not in besides
            and "running" in main_state(pod)
            and "deletionTimestamp" not in pod["metadata"]
        ]

    return wait_for(running, seconds, f"a running pod {template} of {name}")[0]


def ended_pods(name: str) -> list[dict[str, Any]]:
    """The pods of a finished workflow, after each has its final phase, which the kubelet may set a moment later."""
    chosen: list[dict[str, Any]] = []

    def have_ended() -> bool:
        chosen[:] = pods_of(name)
        return all(pod["status"]["phase"] in ("Succeeded", "Failed") for pod in chosen)

    wait_for(have_ended, 120, f"the pods of {name} to have ended")
    return chosen


def working_pod(name: str, template: str, besides: tuple[str, ...] = ()) -> dict[str, Any]:
    """A running pod whose step has begun, and so answers signals."""
    pod = running_pod(name, template, besides)
    look = ("exec", pod["metadata"]["name"], "-c", "main", "--", "test", "-s", "/work/outputs/stage")
    wait_for(lambda: kubectl("-n", NAMESPACE, *look, check=False).returncode == 0, 60, f"the step of {name} to begin")
    return pod


def main_state(pod: dict[str, Any]) -> dict[str, Any]:
    """State of the pod's main container; {} before it has one."""
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return next((c["state"] for c in statuses if c["name"] == "main"), {})


def kill_container(pod: dict[str, Any], name: str = "main") -> None:
    """SIGKILL for every process of a container at once, as the kernel does under cgroup v2 when memory runs out."""
    status = next(c for c in pod["status"]["containerStatuses"] if c["name"] == name)
    identity = status["containerID"].rpartition("/")[2]
    folder = next((CGROUPS / "memory" / CGROUP).rglob(identity))
    for pid in (folder / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):  # some have ended since
            os.kill(int(pid), 9)


def node_of(wf: dict[str, Any], template: str) -> dict[str, Any]:
    """The last pod node of a template."""
    return [node for node in step_nodes(wf) if node["templateName"] == template][-1]


def values_of(wf: dict[str, Any], template: str) -> dict[str, str]:
    """Its output parameters."""
    return outputs(node_of(wf, template))


def record_of(wf: dict[str, Any]) -> dict[str, str]:
    """The output parameters of the node `report`."""
    nodes = [n for n in wf["status"]["nodes"].values() if n.get("templateName") == "report" and n["type"] == "Pod"]
    return outputs(max(nodes, key=attempt_number))


def labels_of(wf: dict[str, Any]) -> dict[str, str]:
    labels = wf["metadata"]["labels"]
    return {
        name.removeprefix("sixview.dev/"): value for name, value in labels.items() if name.startswith("sixview.dev/")
    }


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


@functools.cache
def address(service: str, port: int, space: str = NAMESPACE) -> str:
    """host:port of a service: on our own node the service's address, elsewhere a forwarded port of this machine."""
    if not os.environ.get("KUBECONFIG"):
        host = kubectl("-n", space, "get", "service", service, "-o", "jsonpath={.spec.clusterIP}").stdout
        return f"{host}:{port}"
    command = [str(BIN / "kubectl"), "-n", space, "port-forward", f"service/{service}", f":{port}"]
    forward = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    atexit.register(forward.kill)
    first_line = forward.stdout.readline() if forward.stdout else ""
    return f"127.0.0.1:{first_line.split(':')[1].split()[0]}"


def connect_to_store() -> None:
    """Points pipeline.clients.s3, and so boto3, at the cluster's MinIO."""
    os.environ["S3_ENDPOINT"] = f"http://{address('sixview-cpu-minio', 9000)}"
    s3.client.cache_clear()
    os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = "sixview", "only-for-tests"


def put_folder(folder: Path, prefix: str) -> None:
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        s3.client().upload_file(str(path), BUCKET, f"{prefix}/{path.relative_to(folder)}")


def job(name: str) -> str:
    return name.removeprefix("sixview-")


def folder(name: str) -> str:
    """A workflow's folder in the bucket."""
    return status.folder_of(workflow(name))


def keys_of(name: str) -> dict[str, int]:
    """A job's objects: key without jobs/<folder>/ or results/<folder>/ -> size in bytes."""
    prefixes = [f"{s3.INTERMEDIATES}{folder(name)}/", f"{s3.RESULTS}{folder(name)}/"]
    listed = [(prefix, item) for prefix in prefixes for item in s3.listed(prefix)]
    return {item["Key"].removeprefix(prefix): item["Size"] for prefix, item in listed}


def read_key(name: str, part: str) -> bytes:
    data = s3.read(s3.key_of(folder(name), part))
    assert data is not None, f"{name} has left no {part}"
    return data
