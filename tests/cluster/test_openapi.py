"""The OpenAPI schema and the API agree: every response is documented, and every documented response occurs."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import hypothesis
import pytest
import schemathesis
import yaml
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pipeline.clients import s3
from tests.cluster import web
from tests.cluster.node import wait_for
from tests.cluster.places import KUBECONFIG

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
EXAMPLES = int(os.environ.get("SIXVIEW_EXAMPLES", "25"))
ROUTES = (
    ("POST", "/jobs"),
    ("GET", "/jobs"),
    ("GET", "/jobs/{job}"),
    ("POST", "/jobs/{job}/cancel"),
    ("GET", "/jobs/{job}/download"),
    ("GET", "/jobs/{job}/report"),
    ("GET", "/jobs/{job}/mesh"),
)
RESULTS = ROUTES[4:]


@pytest.fixture(scope="module")
def description(cluster: None) -> Any:
    return schemathesis.openapi.from_url(f"{web.address_of()}/openapi.json")


def test_whatever_is_sent_the_answer_is_a_documented_one(description: Any) -> None:
    for operation in description.get_all_operations():

        @hypothesis.given(case=operation.ok().as_strategy())
        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
            database=None,
        )
        def send(case: Any) -> None:
            case.call_and_validate(checks=CHECKS, headers={"Authorization": "Bearer token-of-alice"})

        send()


def ask(session: httpx.Client, method: str, route: str, job: str = "nothing0", **options: Any) -> httpx.Response:
    return session.request(method, route.replace("{job}", job), **options)


def code(response: httpx.Response) -> str:
    return str(response.json()["error"]["code"])


def active_jobs(session: httpx.Client) -> list[str]:
    jobs = session.get("/jobs").raise_for_status().json()
    return [job["job_id"] for job in jobs if job["status"] in ("queued", "processing")]


def test_a_request_that_announces_too_much_is_not_even_read(cluster: None) -> None:
    with socket.create_connection(
        (urlsplit(web.address_of()).hostname, urlsplit(web.address_of()).port or 80), timeout=30
    ) as plain:
        plain.sendall(
            b"POST /jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-of-alice\r\nContent-Length: 99999999999\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        )
        response = plain.recv(65536)
    assert response.startswith(b"HTTP/1.1 413")
    web.REACHED.add(("POST", "/jobs", 413))


def test_a_token_has_a_rate_limit_and_a_number_of_jobs(
    cluster: None, tmp_path: Path, sample_set: Callable[..., Path]
) -> None:
    with web.serving(tmp_path, "--requests-per-minute", "1") as session:
        ask(session, "GET", "/jobs")
        for method, route in ROUTES:
            response = ask(session, method, route)
            assert (response.status_code, code(response)) == (429, "RATE_LIMITED")
            assert int(response.headers["retry-after"]) > 0
    with web.serving(tmp_path, "--jobs-per-token", "1") as session:
        request: dict[str, Any] = {"data": web.form(seed=7002), "files": web.parts(sample_set("mug"))}
        for job in active_jobs(session):
            ask(session, "POST", "/jobs/{job}/cancel", job, json={"confirm": True})
        wait_for(lambda: not active_jobs(session), 60, "the end of alice's jobs")
        job = session.post("/jobs", **request).raise_for_status().json()["job_id"]
        response = session.post("/jobs", **request)
        assert (response.status_code, code(response)) == (429, "RATE_LIMITED")
        for method, route in RESULTS:
            response = ask(session, method, route, job)
            assert (response.status_code, code(response)) == (409, "JOB_NOT_READY")
            assert "progress" in response.json()["error"]["details"]
        ask(session, "POST", "/jobs/{job}/cancel", job, json={"confirm": True})


def test_an_unreachable_store_is_a_documented_error(
    cluster: None, tmp_path: Path, sample_set: Callable[..., Path]
) -> None:
    with web.serving(tmp_path, probe="/live", S3_ENDPOINT="http://127.0.0.1:9") as session:
        for method, route in ROUTES:
            if (method, route) == ("GET", "/jobs"):
                continue
            options = {"data": web.form(), "files": web.parts(sample_set("mug"))} if route == "/jobs" else {}
            response = ask(session, method, route, **options)
            assert (response.status_code, code(response)) == (503, "STORAGE_UNAVAILABLE"), route
        health = session.get("/health")
        assert (health.status_code, health.json()["status"], health.json()["s3"]["ok"]) == (503, "unhealthy", False)


def test_an_unreachable_cluster_is_a_documented_error(cluster: None, tmp_path: Path) -> None:
    """Nothing is listed before the first listing is whole: a part of it would look like all."""
    config = yaml.safe_load(Path(os.environ.get("KUBECONFIG") or KUBECONFIG).read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / ".away").write_text(json.dumps(config))
    with web.serving(tmp_path, probe="/live", KUBECONFIG=str(tmp_path / ".away")) as session:
        response = ask(session, "GET", "/jobs")
        assert (response.status_code, code(response)) == (503, "CLUSTER_UNAVAILABLE")


def test_downloads_can_be_left_to_the_store(cluster: None, tmp_path: Path, finished_job: str) -> None:
    with web.serving(tmp_path, "--redirect") as session:
        response = ask(session, "GET", "/jobs/{job}/download", finished_job)
        assert response.status_code == 307
        got = httpx.get(response.headers["location"])  # without a token
        assert got.status_code == 200
        assert got.headers["content-disposition"] == f"attachment; filename={finished_job}.zip"
        assert got.content[:2] == b"PK"


@pytest.fixture(scope="module")
def finished_job(inputs: str, sample_set: Callable[..., Path]) -> str:
    with web.client("alice") as session:
        sent = session.post(
            "/jobs", data=web.form(resolution=64, **{"psnr-threshold": 1}), files=web.parts(sample_set("mug"))
        )
        job = str(sent.json()["job_id"])
        assert web.wait_until_ended(session, job)["status"] == "completed"
        return job


def test_every_way_in_which_a_result_is_missing(finished_job: str) -> None:
    """By records as the exit handler leaves them, of jobs whose workflows are gone."""
    record = {**(s3.find_record(finished_job) or {}), "workflow": ""}
    failure = {"code": "MODEL_OOM", "message": "m", "suggestion": "s", "details": {}}
    for job, status, error in (("expired0", "completed", None), ("failed00", "failed", failure)):
        s3.write_json(f"{s3.RECORDS}{job}.json", {**record, "job_id": job, "status": status, "error": error})
    with web.client("alice") as session:
        for method, route in RESULTS:
            expired, failed = (ask(session, method, route, job) for job in ("expired0", "failed00"))
            assert (expired.status_code, code(expired)) == (410, "JOB_EXPIRED")
            assert (failed.status_code, code(failed)) == (500, "JOB_FAILED")
            assert ask(session, method, route, finished_job).status_code == 200
        assert (
            ask(session, "GET", "/jobs/{job}/download", finished_job, headers={"Range": "bytes=0-9"}).status_code == 206
        )
        assert (
            ask(session, "GET", "/jobs/{job}/download", finished_job, headers={"Range": "bytes=999999999-"}).status_code
            == 416
        )


def test_everything_that_is_documented_has_happened(description: Any, finished_job: str) -> None:
    """Over this file and test_gateway*.py: every route with every status of its description."""
    documented = {
        (method.upper(), path, int(status))
        for path, methods in description.raw_schema["paths"].items()
        for method, operation in methods.items()
        for status in operation["responses"]
    }
    with web.client("alice") as alice, web.client("") as nobody, web.client("bob") as bob:
        for method, route in ROUTES:
            ask(nobody, method, route)
            ask(bob, method, route, finished_job)
        ask(alice, "GET", "/health")
        ask(alice, "GET", "/jobs?limit=many")
        ask(alice, "POST", "/jobs/{job}/cancel", finished_job)
        ask(alice, "POST", "/jobs/{job}/cancel", finished_job, json={"confirm": "perhaps"})
    assert documented - web.REACHED == set()
