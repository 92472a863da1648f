"""Results over the HTTP API on the cluster, also of two replicas that die; and the service itself."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import socket
import time
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from pipeline.clients import s3
from tests.cluster import web
from tests.cluster.client import BUCKET
from tests.cluster.client import folder as folder_of
from tests.cluster.node import kubectl, wait_for
from tests.cluster.places import NAMESPACE
from tests.cluster.web import client, form, gateways, parts, patiently, refused, wait_until_ended

# -- results ------------------------------------------------------------------------------------------------------------


def test_a_download_goes_on_where_it_stopped(alice: httpx.Client, done: dict[str, Any]) -> None:
    path = done["links"]["download"]
    full = alice.get(path)
    assert full.headers["accept-ranges"] == "bytes"
    tag, size = full.headers["etag"], len(full.content)
    rest = alice.get(path, headers={"Range": f"bytes={size // 2}-", "If-Range": tag})
    assert (rest.status_code, rest.headers["content-range"]) == (206, f"bytes {size // 2}-{size - 1}/{size}")
    assert rest.content == full.content[size // 2 :]
    assert alice.get(path, headers={"Range": "bytes=0-9", "If-Range": '"other"'}).content == full.content
    assert alice.get(path, headers={"Range": f"bytes={size}-"}).status_code == 416
    assert alice.get(path, headers={"Range": "bytes=" + "9" * 5000 + "-"}).status_code == 416
    assert alice.get(path, headers={"Range": "bytes=5-2"}).content == full.content


def test_the_mesh_and_the_report_can_be_looked_at(
    alice: httpx.Client, done: dict[str, Any], failed: dict[str, Any]
) -> None:
    mesh = alice.get(done["links"]["mesh"])
    assert (mesh.headers["content-type"], mesh.content[:4]) == ("model/gltf-binary", b"glTF")
    assert int.from_bytes(mesh.content[8:12], "little") == len(mesh.content)
    for job in (done, failed):
        report = alice.get(job["links"]["report"])
        assert report.headers["content-type"].startswith("text/html")
        assert report.headers["content-security-policy"].startswith("sandbox")
    refused(alice.get(f"/jobs/{done['job_id']}/mesh?model=nvdiffrec"), 500, "INCOMPLETE_RESULTS")
    error = refused(alice.get(f"/jobs/{done['job_id']}/mesh?model=nonsense"), 422, "VALIDATION_FAILED")
    assert error["details"]["choices"] == ["reconviagen", "nvdiffrec"]


def test_the_status_of_a_failed_job_has_its_record(alice: httpx.Client, failed: dict[str, Any]) -> None:
    assert failed["error"]["code"] == "QUALITY_THRESHOLD_FAILED"
    error = refused(alice.get(f"/jobs/{failed['job_id']}/download"), 500, "JOB_FAILED")
    assert error["details"]["failure"] == failed["error"]


def test_a_result_that_is_gone_has_expired(alice: httpx.Client, mug: Path) -> None:
    """Here by hand, elsewhere by the bucket's lifecycle; and the record outlives the workflow too."""
    job = alice.post("/jobs", data=form(resolution=64, **{"psnr-threshold": 1}), files=parts(mug)).json()["job_id"]
    assert wait_until_ended(alice, job)["status"] == "completed"
    s3.purge(s3.key_of(folder_of(web.workflow_of(job)), "result.zip"))
    refused(alice.get(f"/jobs/{job}/download"), 410, "JOB_EXPIRED")
    wait_for(lambda: s3.find_record(job) is not None, 60, "the record")
    kubectl("-n", NAMESPACE, "delete", "workflow", web.workflow_of(job))
    wait_for(
        lambda: not alice.get("/jobs").json() or job not in [j["job_id"] for j in alice.get("/jobs").json()],
        20,
        "the watch",
    )
    assert alice.get(f"/jobs/{job}").json()["status"] == "completed"
    refused(alice.get(f"/jobs/{job}/download"), 410, "JOB_EXPIRED")
    with client("bob") as bob:
        refused(bob.get(f"/jobs/{job}"), 404, "JOB_NOT_FOUND")


def test_a_job_whose_files_are_missing_says_which(alice: httpx.Client, done: dict[str, Any]) -> None:
    """As package would have recorded it."""
    job = "missing0"
    record = {**(s3.find_record(done["job_id"]) or {}), "workflow": ""}
    error = {
        "code": "INCOMPLETE_RESULTS",
        "message": "m",
        "suggestion": "s",
        "details": {"missing": ["reconviagen/mesh.glb"]},
    }
    s3.write_json(f"{s3.RECORDS}{job}.json", {**record, "job_id": job, "status": "failed", "error": error})
    answered_error = refused(alice.get(f"/jobs/{job}/download"), 500, "INCOMPLETE_RESULTS")
    assert answered_error["details"]["missing"] == ["reconviagen/mesh.glb"]


# -- two replicas -------------------------------------------------------------------------------------------------------


def kill(pod: str) -> None:
    kubectl("-n", NAMESPACE, "delete", "pod", pod, "--grace-period=0", "--force")


def test_a_gateway_that_dies_mid_upload_costs_a_repetition_and_nothing_else(alice: httpx.Client, mug: Path) -> None:
    key = {"Idempotency-Key": f"killed-{time.time()}"}
    request = alice.build_request("POST", "/jobs", data=form(resolution=64), files=parts(mug), headers=key)
    data = request.read()
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    where = urlsplit(web.address_of())
    with socket.create_connection((where.hostname, where.port or 80), timeout=30) as plain:
        plain.sendall(f"POST /jobs HTTP/1.1\r\n{head}\r\n".encode() + data[: len(data) // 2])
        time.sleep(1)
        for pod in gateways():  # whichever has it
            kill(pod)
        with contextlib.suppress(OSError):
            while plain.recv(65536):
                pass
    kubectl("-n", NAMESPACE, "rollout", "status", "deployment/sixview-cpu-gateway", "--timeout=120s")
    with client("alice") as again:
        job = patiently(lambda: again.post("/jobs", data=form(resolution=64), files=parts(mug), headers=key)).json()[
            "job_id"
        ]
        assert wait_until_ended(again, job)["status"] in ("completed", "failed")
    lifecycle = s3.client().get_bucket_lifecycle_configuration(Bucket=BUCKET)["Rules"]
    assert {rule["Filter"]["Prefix"] for rule in lifecycle} >= {"inputs/", "jobs/", "results/", "logs/", "drops/"}


def test_a_gateway_that_dies_mid_download_costs_the_rest_of_it(done: dict[str, Any]) -> None:
    path, got = done["links"]["download"], b""
    with client("alice") as session, session.stream("GET", path) as response:
        tag, size = response.headers["etag"], int(response.headers["content-length"])
        with contextlib.suppress(httpx.TransportError):
            for piece in response.iter_raw(65536):
                got += piece
                if len(got) >= size // 4:
                    break
        kill(gateways()[0])
    with client("alice") as session:
        rest = patiently(lambda: session.get(path, headers={"Range": f"bytes={len(got)}-", "If-Range": tag}))
    assert rest.status_code == 206
    with zipfile.ZipFile(io.BytesIO(got + rest.content)) as archive:
        listed = json.loads(archive.read("manifest.json"))["files"]
        assert all(hashlib.sha256(archive.read(n)).hexdigest() == e["sha256"] for n, e in listed.items())


# -- the service itself -------------------------------------------------------------------------------------------------


def test_health_shows_gpus_queue_and_store(cluster: None) -> None:
    response = patiently(lambda: httpx.get(f"{web.address_of()}/health"))
    report = response.json()
    assert (report["status"], report["s3"]["ok"], report["cluster"]["ok"]) == ("healthy", True, True)
    assert report["gpus"][0]["count"] == 1
    assert "node" not in report["gpus"][0] and "bucket" not in report["s3"]
    with client("alice") as alice:
        assert alice.get("/health").json()["gpus"][0]["node"]
    assert set(report["queue"]) == {"queued", "processing"}
    assert httpx.get(f"{web.address_of()}/api/health").json().keys() == report.keys()


def test_metrics_count_requests_by_route_and_jobs_by_status(alice: httpx.Client, done: dict[str, Any]) -> None:
    alice.get(f"/jobs/{done['job_id']}")  # over the same connection, so of the same replica
    seen = alice.get("/metrics").text
    assert 'sixview_jobs{status="completed"}' in seen
    assert 'route="/jobs/{job}"' in seen
    assert done["job_id"] not in seen


def test_other_pages_may_not_use_the_api_unless_they_are_listed(cluster: None) -> None:
    response = httpx.options(
        f"{web.address_of()}/jobs", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert "access-control-allow-origin" not in response.headers
    assert "frame-ancestors 'none'" in httpx.get(web.address_of()).headers["content-security-policy"]
