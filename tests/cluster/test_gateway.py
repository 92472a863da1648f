"""The HTTP API on the cluster: compatibility with the earlier API, access, cancellation."""

from __future__ import annotations

import base64
import io
import json
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.clients import s3
from pipeline.clients.workflows import NAME_PREFIX
from tests.cluster import web
from tests.cluster.client import BUCKET, finished, keys_of, labels_of, submit, workflow
from tests.cluster.client import folder as folder_of
from tests.cluster.node import kubectl, wait_for
from tests.cluster.places import NAMESPACE
from tests.cluster.web import client, form, gateways, parts, refused, wait_until_ended

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
def test_job_names_in_urls_cannot_address_other_objects(alice: httpx.Client, job: str) -> None:
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


def test_fastapi_s_own_errors_have_the_common_form(alice: httpx.Client) -> None:
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
