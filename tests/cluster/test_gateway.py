"""The HTTP API on the cluster: compatibility with the earlier API, errors, access, and two replicas."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from pipeline.clients import s3
from pipeline.clients.workflows import NAME_PREFIX
from tests.cluster import web
from tests.cluster.client import BUCKET, finished, keys_of, labels_of, submit, workflow
from tests.cluster.client import folder as folder_of
from tests.cluster.node import kubectl, wait_for
from tests.cluster.places import NAMESPACE
from tests.cluster.web import client, form, parts, wait_until_ended


@pytest.fixture(scope="module")
def mug(inputs: str, sample_set: Callable[..., Path]) -> Path:
    return sample_set("mug")


@pytest.fixture(scope="module")
def alice(cluster: None) -> Iterator[httpx.Client]:
    with client("alice") as session:
        yield session


@pytest.fixture(scope="module")
def done(alice: httpx.Client, mug: Path) -> dict[str, Any]:
    """A job that was submitted without cameras.json, by parts that are all called view.png, and has ended."""
    sent = alice.post("/api/jobs/", data=form(), files=parts(mug, names="view.png"))
    assert sent.status_code == 200, sent.text
    return wait_until_ended(alice, sent.json()["job_id"])


@pytest.fixture(scope="module")
def failed(alice: httpx.Client, mug: Path) -> dict[str, Any]:
    """A job whose mesh does not pass the gate."""
    sent = alice.post("/jobs", data=form(**{"psnr-threshold": 99}), files=parts(mug))
    return wait_until_ended(alice, sent.json()["job_id"])


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


# -- submitting ---------------------------------------------------------------------------------------------------------


def test_a_job_is_submitted_followed_and_fetched(alice: httpx.Client, mug: Path) -> None:
    sent = alice.post("/jobs?model_type=nvdiffrec", data={"options": form()["options"]}, files=parts(mug))
    assert set(sent.json()) == {"job_id", "status", "model_type", "created_at"}
    assert (sent.status_code, sent.json()["status"], sent.json()["model_type"]) == (200, "queued", "nvdiffrec")
    job = sent.json()["job_id"]
    seen: list[dict[str, Any]] = []

    def has_ended() -> bool:
        seen.append(alice.get(f"/jobs/{job}").json())
        return seen[-1]["status"] not in ("queued", "processing")

    assert not has_ended()
    refused(alice.get(f"/jobs/{job}/download"), 409, "JOB_NOT_READY")
    wait_for(has_ended, 900, f"the end of {job}", 0.5)
    assert {s["status"] for s in seen} >= {"processing", "completed"}
    assert [s["progress"] for s in seen] == sorted(s["progress"] for s in seen)
    assert seen[-1]["progress"] == 100
    assert "nvdiffrec" in {s["current_model"] for s in seen}
    assert (seen[-1]["engine"], seen[-1]["error"]) == ("nvdiffrec", None)
    got = alice.get(f"/jobs/{job}/download")
    assert got.headers["content-disposition"] == f"attachment; filename={job}.zip"
    with zipfile.ZipFile(io.BytesIO(got.content)) as archive:
        assert archive.testzip() is None
        assert "nvdiffrec/mesh.glb" in archive.namelist()


def test_a_hand_submitted_job_and_one_over_http_are_the_same(alice: httpx.Client, done: dict[str, Any]) -> None:
    """One template, the same files; only the labels say who asked."""
    assert done["status"] == "completed", done
    by_hand = finished(submit("sixview-cpu"))
    wf = workflow(web.workflow_of(done["job_id"]))
    assert set(keys_of(wf["metadata"]["name"])) == set(keys_of(by_hand["metadata"]["name"]))
    assert by_hand["spec"]["workflowTemplateRef"] == wf["spec"]["workflowTemplateRef"]
    assert wf["spec"]["workflowTemplateRef"] == {"name": "sixview-cpu"}
    assert labels_of(wf)["owner"] == "alice"
    assert labels_of(wf)["status"] == "completed"


def test_parts_in_another_order_find_their_places_by_their_names(
    alice: httpx.Client, mug: Path, done: dict[str, Any]
) -> None:
    order = ("bottom", "front", "top", "back", "right", "left")
    sent = alice.post("/jobs", data=form(), files=parts(mug, order, names="{view}.png")).json()
    digest = [content_digest(alice, wait_until_ended(alice, job["job_id"])) for job in (sent, done)]
    assert digest[0] == digest[1]


def content_digest(session: httpx.Client, job: dict[str, Any]) -> str:
    assert job["status"] == "completed", job
    got = session.get(f"/jobs/{job['job_id']}/download")
    with zipfile.ZipFile(io.BytesIO(got.content)) as archive:
        return str(json.loads(archive.read("manifest.json"))["content_digest"])


def test_the_same_idempotency_key_is_the_same_job(alice: httpx.Client, mug: Path) -> None:
    """A client whose gateway died before the answer sends all of it again."""
    key = {"Idempotency-Key": f"again-{time.time()}"}
    options = form(resolution=64)
    answers = [alice.post("/jobs", data=options, files=parts(mug), headers=key).json() for _ in range(2)]
    assert answers[0]["job_id"] == answers[1]["job_id"]
    with client("bob") as bob:
        other = bob.post("/jobs", data=options, files=parts(mug), headers=key).json()
        assert other["job_id"] != answers[0]["job_id"]
        for session, job in ((alice, answers[0]), (bob, other)):
            session.post(f"/jobs/{job['job_id']}/cancel", json={"confirm": True})


def test_replicas_agree_on_the_ids_of_keys_under_one_secret(alice: httpx.Client) -> None:
    """By the Secret that the chart makes once: an upgrade leaves it as it is."""
    secret = kubectl("-n", NAMESPACE, "get", "secret", "sixview-cpu-ids", "-o", "jsonpath={.data.key}").stdout
    assert len(base64.b64decode(secret)) >= 32
    for pod in gateways():
        variable = kubectl("-n", NAMESPACE, "exec", pod, "--", "printenv", "SIXVIEW_ID_KEY").stdout.strip()
        assert variable == base64.b64decode(secret).decode()


def test_an_empty_idempotency_key_is_no_key(alice: httpx.Client, mug: Path) -> None:
    sent = [
        alice.post("/jobs", data=form(resolution=64), files=parts(mug), headers={"Idempotency-Key": ""})
        for _ in range(2)
    ]
    job_ids = {response.json()["job_id"] for response in sent}
    for job in job_ids:
        alice.post(f"/jobs/{job}/cancel", json={"confirm": True})
    assert len(job_ids) == 2


@pytest.mark.parametrize("options", ["[" * 30_000 + "]" * 30_000, '{"grid": NaN}', '{"a": "\\ud800"}'])
def test_options_that_are_no_json_are_refused(alice: httpx.Client, mug: Path, options: str) -> None:
    response = alice.post("/jobs", data={"options": options}, files=parts(mug))
    refused(response, 422, "VALIDATION_FAILED")


def test_a_set_in_an_allowed_bucket_needs_no_upload(alice: httpx.Client, mug: Path) -> None:
    client_of_store = s3.client()
    for path in mug.glob("*_*/*.png"):
        client_of_store.upload_file(str(path), BUCKET, f"sets/mug/{path.relative_to(mug)}")
    order = {"input": f"s3://{BUCKET}/sets/mug", "model_type": "reconviagen", "options": {**web.WORK, "resolution": 64}}
    sent = alice.post("/jobs", json=order)
    assert sent.status_code == 200, sent.text
    assert wait_until_ended(alice, sent.json()["job_id"])["status"] in ("completed", "failed")


# -- bad input ----------------------------------------------------------------------------------------------------------


def changed(mug: Path, place: int, data: bytes, name: str = "front.png") -> list[Any]:
    files = parts(mug)
    files[place] = (files[place][0], (name, data, "image/png"))
    return files


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that announces a size; what it holds is another matter."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BAD: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "eleven files": ("INVALID_FILE_COUNT", lambda mug: {"files": parts(mug)[1:]}),
    "thirteen files": ("INVALID_FILE_COUNT", lambda mug: {"files": [*parts(mug), parts(mug)[0]]}),
    "no files": ("INVALID_FILE_COUNT", lambda mug: {"files": {"other": b"x"}, "data": {}}),
    "a large file": ("FILE_TOO_LARGE", lambda mug: {"files": changed(mug, 3, parts(mug)[0][1][1] + bytes(20_000_001))}),
    "no png": ("INVALID_FILE_FORMAT", lambda mug: {"files": changed(mug, 0, b"GIF89a" + bytes(100))}),
    "an empty file": ("INVALID_FILE_FORMAT", lambda mug: {"files": changed(mug, 0, b"")}),
    "a zip instead": ("INVALID_FILE_FORMAT", lambda mug: {"files": changed(mug, 0, zip_bomb())}),
    "a picture that would unpack to gigabytes": (
        "VALIDATION_FAILED",
        lambda mug: {"files": changed(mug, 0, png(50000, 50000, zlib.compress(bytes(1 << 20))))},
    ),
    "other proportions": ("VALIDATION_FAILED", lambda mug: {"files": changed(mug, 0, png(64, 128))}),
    "the same name twice": ("VALIDATION_FAILED", lambda mug: {"files": changed(mug, 1, parts(mug)[0][1][1])}),
    "an unknown model": ("VALIDATION_FAILED", lambda mug: {"data": {"model_type": "magic"}}),
    "an unknown option": ("VALIDATION_FAILED", lambda mug: {"data": {"options": '{"gird": 1}'}}),
    "an option that is a template": ("VALIDATION_FAILED", lambda mug: {"data": {"options": '{"grid": "{{=1}}"}'}}),
    "another input": ("VALIDATION_FAILED", lambda mug: {"data": {"options": '{"input": "s3://private/mug"}'}}),
    "options that are no JSON": ("VALIDATION_FAILED", lambda mug: {"data": {"options": "{"}}),
    "an unknown field": ("VALIDATION_FAILED", lambda mug: {"data": {"modle": "both"}}),
}


def zip_bomb() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("multi_views/front.png", bytes(50_000_000))
    return data.getvalue()


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_told_at_once_and_leaves_nothing(alice: httpx.Client, mug: Path, what: str) -> None:
    code, make = BAD[what]
    request = {"data": form(), "files": parts(mug), **make(mug)}
    before = uploads_without_job()
    refused(alice.post("/jobs", **request), 422, code)
    wait_for(lambda: uploads_without_job() <= before, 20, "the upload to be taken away")


def uploads_without_job() -> set[str]:
    """What lies in inputs/ for no workflow that is there. Others upload meanwhile, and have their job soon after."""
    places = {version["Key"].split("/")[1] for version in s3.versions(s3.INPUTS)}
    listed = kubectl("-n", NAMESPACE, "get", "workflows", "-o", "name").stdout
    names = {line.rpartition("/")[2].removeprefix(NAME_PREFIX) for line in listed.split()}
    return {place for place in places if place.partition(".")[0] not in names}


def test_several_faults_are_told_together_and_the_first_of_the_order_names_them(alice: httpx.Client, mug: Path) -> None:
    files = changed(mug, 0, b"GIF89a")
    files[4] = (files[4][0], ("top.png", bytes(20_000_001), "image/png"))
    error = refused(alice.post("/jobs", data=form(), files=files), 422, "FILE_TOO_LARGE")
    assert [f["code"] for f in error["details"]["faults"]] == ["INVALID_FILE_FORMAT", "FILE_TOO_LARGE"]
    assert [(f["field"], f["index"], f["file"]) for f in error["details"]["faults"]] == [
        ("multi_views", 0, "front.png"),
        ("multi_views", 4, "top.png"),
    ]


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b"hello", {"Content-Type": "text/plain"}),
        (b"--x\r\n", {"Content-Type": "multipart/form-data; boundary=x"}),
        (b"", {"Content-Type": "multipart/form-data"}),
        (b"{", {"Content-Type": "application/json"}),
        (b"[]", {"Content-Type": "application/json"}),
        (b"x", {"Content-Type": "multipart/form-data; boundary=x", "Content-Encoding": "gzip"}),
    ],
)
def test_a_body_that_is_no_form_is_refused(alice: httpx.Client, content: bytes, headers: dict[str, str]) -> None:
    refused(alice.post("/jobs", content=content, headers=headers), 422, "VALIDATION_FAILED")


# -- no way in ----------------------------------------------------------------------------------------------------------

PATHS = [
    "/jobs",
    "/jobs/abc12345",
    "/jobs/abc12345/download",
    "/jobs/abc12345/report",
    "/jobs/abc12345/mesh",
    "/api/jobs/abc12345",
]


@pytest.mark.parametrize("path", PATHS)
def test_nobody_gets_in_without_a_token_that_is_known(cluster: None, path: str) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Basic dXNlcg=="},
        {"Authorization": "Bearer"},
    ):
        response = httpx.get(web.address_of() + path, headers=headers)
        refused(response, 401, "UNAUTHORIZED")
        assert response.headers["www-authenticate"] == "Bearer"
    refused(httpx.post(f"{web.address_of()}/jobs", data=form()), 401, "UNAUTHORIZED")


def test_another_token_s_job_is_as_unknown_as_none(done: dict[str, Any]) -> None:
    job = done["job_id"]
    with client("bob") as bob:
        for path in ("", "/download", "/report", "/mesh"):
            refused(bob.get(f"/jobs/{job}{path}"), 404, "JOB_NOT_FOUND")
        refused(bob.post(f"/jobs/{job}/cancel", json={"confirm": True}), 404, "JOB_NOT_FOUND")
        assert job not in [each["job_id"] for each in bob.get("/jobs").json()]
    with client("operator") as operator:
        assert operator.get(f"/jobs/{job}").status_code == 200


@pytest.mark.parametrize(
    "job",
    [
        "nothing0",
        "../health",
        "..%2fhealth",
        "abc12345%2f..%2fx",
        "%7B%7Bworkflow.name%7D%7D",
        "a" * 300,
        "ABC",
        "%00",
        "é",
    ],
)
def test_names_lead_to_jobs_and_nowhere_else(alice: httpx.Client, job: str) -> None:
    for path in (f"/jobs/{job}", f"/jobs/{job}/download"):
        response = alice.get(path)
        if job == "../health":  # the client itself resolves that
            continue
        assert response.status_code == 404, response.text
        assert response.json()["error"]["code"] in ("JOB_NOT_FOUND", "NOT_FOUND")


@pytest.mark.parametrize(
    "source",
    [
        "s3://private/mug",
        f"s3://{BUCKET}/inputs/abc12345",
        f"s3://{BUCKET}/results/abc12345",
        f"s3://{BUCKET}/records",
        f"s3://{BUCKET}/sets/../inputs/abc12345",
        f"s3://{BUCKET}//inputs/abc12345/set.zip",
        f"S3://{BUCKET}/%69nputs/abc12345",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "s3://",
        "",
    ],
)
def test_sets_are_taken_from_allowed_buckets_only(alice: httpx.Client, source: str) -> None:
    refused(alice.post("/jobs", json={"input": source}), 422, "VALIDATION_FAILED")


def test_what_fastapi_says_itself_has_the_same_form(alice: httpx.Client) -> None:
    refused(alice.get("/nothing/here"), 404, "NOT_FOUND")
    refused(alice.delete("/jobs/abc12345"), 405, "METHOD_NOT_ALLOWED")
    refused(alice.get("/jobs?limit=many"), 422, "VALIDATION_FAILED")


# -- cancelling ---------------------------------------------------------------------------------------------------------


def test_a_cancellation_is_asked_for_and_then_confirmed(alice: httpx.Client, mug: Path) -> None:
    job = alice.post("/jobs", data=form(seed=7002), files=parts(mug)).json()["job_id"]
    unconfirmed: list[dict[str, Any]] = [{}, {"json": {"confirm": False}}]
    for body in unconfirmed:
        cancellation = alice.post(f"/jobs/{job}/cancel", **body).json()
        assert (cancellation["job_id"], cancellation["status"]) == (job, "cancel_requested")
    wait_for(lambda: "waits" in (alice.get(f"/jobs/{job}").json()["note"] or ""), 10, "the note")
    wait_for(lambda: alice.get(f"/jobs/{job}").json()["stage"] == "inference", 120, "the model to run")
    assert alice.post(f"/jobs/{job}/cancel", json={"confirm": True}).json()["status"] == "cancelled"
    assert alice.post(f"/jobs/{job}/cancel", json={"confirm": True}).json()["status"] == "cancelled"
    job_status = wait_until_ended(alice, job)
    assert (job_status["status"], job_status["error"]["code"]) == ("cancelled", "CANCELLED")
    error = refused(alice.get(f"/jobs/{job}/download"), 500, "JOB_FAILED")
    assert error["details"]["failure"]["code"] == "CANCELLED"
    wait_for(lambda: s3.find_record(job) is not None, 240, "the exit handler")
    wait_for(lambda: not list(s3.versions(f"{s3.INPUTS}{job}")), 30, "the inputs to go")
    folder = folder_of(web.workflow_of(job))
    prefix = f"{s3.INTERMEDIATES}{folder}/"
    assert {o["Key"].removeprefix(prefix).split("/")[0] for o in s3.versions(prefix)} <= {"outputs"}
    assert list(s3.listed(f"{s3.LOGS}{NAME_PREFIX}{folder}/"))


def test_what_has_ended_cannot_be_cancelled(alice: httpx.Client, done: dict[str, Any], failed: dict[str, Any]) -> None:
    bodies: list[dict[str, Any]] = [{}, {"json": {"confirm": True}}]
    for job in (done, failed):
        for body in bodies:
            refused(alice.post(f"/jobs/{job['job_id']}/cancel", **body), 400, "JOB_NOT_READY")
    refused(alice.post("/jobs/nothing0/cancel"), 404, "JOB_NOT_FOUND")
    refused(alice.post(f"/jobs/{done['job_id']}/cancel", json={"confirm": "perhaps"}), 422, "VALIDATION_FAILED")


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


def test_a_failure_is_told_with_its_record(alice: httpx.Client, failed: dict[str, Any]) -> None:
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


def gateways() -> list[str]:
    selector = "app.kubernetes.io/component=gateway"
    listed = json.loads(kubectl("-n", NAMESPACE, "get", "pods", "-l", selector, "-o", "json").stdout)["items"]
    return [p["metadata"]["name"] for p in listed if "deletionTimestamp" not in p["metadata"]]


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


def patiently(ask: Callable[[], httpx.Response]) -> httpx.Response:
    """Repeats a request while no gateway responds, as a client does."""

    def answered() -> httpx.Response | None:
        with contextlib.suppress(httpx.TransportError):
            response = ask()
            return response if response.status_code < 500 else None
        return None

    return wait_for(answered, 60, "a gateway to come back", 1)


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


def test_of_many_uploads_at_once_none_is_lost(cluster: None) -> None:
    """The small form of `python -m tests.benchmarks gateway`."""
    from tests.benchmarks.gateway_benchmark import measure

    measured = measure(uploads=12, megabytes=0.2, rate=20)
    assert (len(measured.jobs), measured.refused, measured.lost) == (12, [], [])
    assert measured.waits
