"""The HTTP API over doubles of cluster and S3: every request gets a documented response."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.clients import json_text, s3
from pipeline.gateway import app, errors, health, metrics, results, tokens, uploads
from pipeline.gateway import submit as submission
from pipeline.gateway.dependencies import Gateway, Options
from pipeline.gateway.informer import JobInformer
from pipeline.jobs import ids
from steps.runtime.errors import IncompleteResults, ValidationFailed
from tests.pipeline.doubles import Bucket, Namespace, bucket

__all__ = ["bucket"]
VIEWS = ("front", "back", "left", "right", "top", "bottom")
HUGE = "9" * 5000
STRANGE = ["", " ", "\x7f", "é", "ÿ" * 300, "%00", "{{workflow.name}}", HUGE, "-1", "1e9", "null", "'\"", "[" * 9000]
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (64).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0" + bytes(8)


def listed_informer(cluster: Any) -> JobInformer:
    """The informer after its first list, which was empty; its watch brings nothing."""
    informer = JobInformer(cluster)
    informer.has_listed, informer.failing_since = True, None
    return informer


class Service:
    """An HTTP client of the application. token_name: whose token a request has."""

    def __init__(self, folder: Path, jobs_per_token: int = 200) -> None:
        self.cluster = Namespace()
        for name in ("alice", "bob"):
            (folder / name).write_text(tokens.digest(f"token-of-{name}"))
        options = Options(tokens=folder, input_buckets=("shared", "sixview"), jobs_per_token=jobs_per_token)
        self.app = app.create(options, self.cluster)  # type: ignore[arg-type]
        shared: tuple[Any, ...] = (
            options,
            self.cluster,
            listed_informer(self.cluster),
            tokens.Tokens(folder),
            tokens.RateLimiter(10**6),
        )
        self.app.state.gateway = Gateway(*shared, asyncio.Semaphore(8))

    def ask(self, method: str, path: str, token_name: str = "alice", **options: Any) -> Any:
        headers = {"Authorization": f"Bearer token-of-{token_name}"} | options.pop("headers", {})
        return self.send(method, path, headers=headers, **options)

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def sent() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://sixview") as client:
                return await client.request(method, path, **options)

        return asyncio.run(sent())

    def submit(self, key: str | bytes | None, token_name: str = "alice", **fields: str) -> Any:
        files = [(field, (f"{view}.png", PNG, "image/png")) for field in ("views", "depth_renders") for view in VIEWS]
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.ask("POST", "/jobs", token_name, files=files, data=fields, headers=headers)


@pytest.fixture
def service(tmp_path: Path, bucket: Bucket) -> Service:
    health._cache.clear()
    return Service(tmp_path)


def check_error(response: Any, status: int, code: str) -> dict[str, Any]:
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text[:500]
    error: dict[str, Any] = response.json()["error"]
    return error


# -- ids ----------------------------------------------------------------------------------------------------------------


def test_the_same_key_twice_is_the_same_job_and_another_s_is_another(service: Service) -> None:
    first, again = service.submit("k").json(), service.submit("k").json()
    assert first == again
    assert len(first["job_id"]) == ids.ID_LENGTH
    assert service.submit("k", token_name="bob").json()["job_id"] != first["job_id"]


def test_files_that_count_from_one_keep_their_numbers_in_whatever_order_they_come(
    service: Service, bucket: Bucket
) -> None:
    views = [("views", (f"view_{i}.png", PNG + bytes([i]), "image/png")) for i in (3, 1, 2, 6, 5, 4)]
    depths = [("depth_renders", (f"depth_{i}.png", PNG, "image/png")) for i in range(6)]
    assert service.ask("POST", "/jobs", files=views + depths, data={"model_type": "reconviagen"}).status_code == 200
    stored = {key: versions[-1]["data"] for key, versions in bucket.objects.items() if "/multi_views/" in key}
    assert {key.rpartition("/")[2]: data[-1] for key, data in stored.items()} == {
        f"view_{i}.png": i for i in range(1, 7)
    }


def test_a_submitted_job_counts_before_the_watch_has_seen_it(tmp_path: Path, bucket: Bucket) -> None:
    service = Service(tmp_path, jobs_per_token=1)
    assert service.submit(None).status_code == 200
    check_error(service.submit(None), 429, "RATE_LIMITED")
    assert service.submit(None, "bob").status_code == 200


@pytest.mark.parametrize("key", ["", " ", "\t"])
def test_an_empty_key_is_no_key(service: Service, key: str) -> None:
    assert service.submit(key).json()["job_id"] != service.submit(key).json()["job_id"]


def test_which_job_a_key_leads_to_cannot_be_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    ids.secret.cache_clear()
    monkeypatch.setenv(ids.KEY_VARIABLE, "a" * 32)
    one = ids.keyed_id("http", "alice", "k")
    ids.secret.cache_clear()
    monkeypatch.setenv(ids.KEY_VARIABLE, "b" * 32)
    assert len({one, ids.keyed_id("http", "alice", "k"), ids.id_from("http", "alice", "k")}) == 3
    ids.secret.cache_clear()


def test_a_key_that_leads_to_another_s_job_writes_and_shows_nothing(
    service: Service, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a collision, in the watch, in the cluster, or in the records alone."""
    job = service.submit("k").json()["job_id"]
    monkeypatch.setattr(ids, "keyed_id", lambda *_: job)
    before = {key: len(versions) for key, versions in bucket.objects.items()}
    error = check_error(service.submit("other", token_name="bob"), 422, "VALIDATION_FAILED")
    assert job not in json.dumps(error)
    assert {key: len(versions) for key, versions in bucket.objects.items()} == before


def test_a_conflict_that_comes_late_shows_nothing_and_touches_no_other_s_files(
    service: Service, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unknown(*_: Any) -> None: ...

    job = service.submit("k").json()["job_id"]
    monkeypatch.setattr(ids, "keyed_id", lambda *_: job)
    monkeypatch.setattr(submission, "existing_job", unknown)
    before = {key: versions[-1]["VersionId"] for key, versions in bucket.objects.items()}
    check_error(service.submit("other", token_name="bob"), 422, "VALIDATION_FAILED")
    assert {key: bucket.objects[key][-1]["VersionId"] for key in before} == before


def test_a_request_that_fails_takes_no_files_of_the_same_job_away(
    service: Service, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids, "keyed_id", lambda *_: "abcdefghijklm")
    service.submit("k")
    there = {key for key in bucket.objects if key.startswith("inputs/")}
    service.cluster.workflows.clear()
    service.app.state.gateway.informer.jobs.clear()  # the second comes to a replica that does not know the first
    check_error(service.submit("k", options="["), 422, "VALIDATION_FAILED")
    assert there <= set(bucket.objects)


# -- every header, query and field --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", STRANGE)
@pytest.mark.parametrize(
    "header",
    ["Authorization", "Idempotency-Key", "Content-Type", "Content-Length", "Content-Encoding", "Range", "If-Range"],
)
def test_no_header_breaks_the_service(service: Service, header: str, text: str) -> None:
    for method, path in (("POST", "/jobs"), ("GET", "/jobs/nothing0/download"), ("GET", "/health")):
        response = service.ask(method, path, headers={header: text.encode("latin-1")}, content=b"")
        assert response.status_code in (200, 401, 404, 413, 422, 429), response.text


@pytest.mark.parametrize("text", [*STRANGE, "\x00", "\x1b[2J", "\ud800", "日本", "../..", "a/b"])
def test_no_path_or_query_breaks_the_service(service: Service, text: str) -> None:
    from urllib.parse import quote

    word = quote(text.encode("utf-8", "surrogatepass"), safe="")
    for path in (
        f"/jobs/{word}",
        f"/jobs/{word}/mesh?model={word}",
        f"/jobs?limit={word}",
        f"/web/{word}",
        f"/{word}",
        f"/jobs/{word}/report",
        f"/api/jobs/{word}/download",
    ):
        response = service.ask("GET", path)
        assert response.status_code in (200, 400, 404, 405, 422), (path[:100], response.text)
    response = service.ask("POST", f"/jobs?model_type={word}", json={"input": "s3://shared/x"})
    assert response.status_code == 422 or (response.status_code == 200 and not text), response.text


DEEP = "[" * 100_000 + "]" * 100_000
FIELDS = [
    *STRANGE[2:],
    "\x00",
    "日本",
    DEEP,
    '{"model": ' + DEEP + "}",
    '{"\\ud800": 1}',
    '{"grid": NaN}',
    '{"grid": 1e999}',
]


@pytest.mark.parametrize("text", [*FIELDS, '{"grid": ' + HUGE + "}", "x" * 70_000, '{"model": "\\ud800"}'])
@pytest.mark.parametrize("field", ["options", "model_type", "é\x1b"])
def test_no_field_of_a_form_breaks_the_service(service: Service, field: str, text: str) -> None:
    refused_with = service.submit(None, **{field: text})
    assert refused_with.status_code == 422, refused_with.text[:500]
    assert refused_with.json()["error"]["code"] in ("VALIDATION_FAILED", "FILE_TOO_LARGE")


@pytest.mark.parametrize(
    "data",
    [
        DEEP,
        '{"input": "s3://shared/x", "options": {"grid": ' + HUGE + "}}",
        '{"input": "s3://shared/x", "options": {"a": ' + DEEP + "}}",
        '{"input": "s3://shared/\\ud800"}',
        '{"input": "' + "s3://shared/" + "x" * 9000 + '"}',
        '{"input": "s3://shared/a\\u0000b"}',
        "\udcff",
        "",
    ],
)
def test_no_json_request_breaks_the_service(service: Service, data: str) -> None:
    body = data.encode("utf-8", "surrogateescape")
    for path in ("/jobs", "/jobs/nothing0/cancel"):
        response = service.ask("POST", path, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code in (400, 404, 413, 422), response.text


def test_json_bodies_above_the_limit_are_refused(service: Service) -> None:
    body = b'{"confirm": true, "x": "' + b"x" * 200_000 + b'"}'
    response = service.ask("POST", "/jobs/nothing0/cancel", content=body, headers={"Content-Type": "application/json"})
    check_error(response, 413, "REQUEST_TOO_LARGE")


def test_the_headers_of_a_part_are_limited() -> None:
    with (
        contextlib.closing(uploads.FormParser("multipart/form-data; boundary=x")) as parser,
        pytest.raises(ValidationFailed),
    ):
        for _ in range(1000):
            parser.feed(b"--x\r\nContent-Disposition: form-data" if not parser.count else b"; a=b" * 100)


def test_a_model_that_there_is_not_is_told_with_those_that_there_are(service: Service, bucket: Bucket) -> None:
    job = service.submit(None).json()["job_id"]
    error = check_error(service.ask("GET", f"/jobs/{job}/mesh?model=nonsense"), 422, "VALIDATION_FAILED")
    assert error["details"]["choices"] == ["reconviagen", "nvdiffrec"]


def test_a_result_that_is_no_zip_is_incomplete(bucket: Bucket) -> None:
    bucket.put_object("results/a/result.zip", b"nothing")
    with pytest.raises(IncompleteResults):
        results.member("results/a/result.zip", 7, "reconviagen/mesh.glb")


def test_unknown_http_methods_share_one_metric_label(service: Service) -> None:
    service.ask("BREW", "/jobs")
    assert "BREW" not in metrics.page(Counter()).body.decode()


def test_json_responses_replace_nan_and_lone_surrogates() -> None:
    body = errors.SafeJSONResponse({"a": float("nan"), "b": "\ud800", "c": [1.5, "ä"]}).body
    assert json.loads(body) == {"a": None, "b": "\\xd800", "c": [1.5, "ä"]}


# -- what is shown without a token --------------------------------------------------------------------------------------


def test_health_names_nodes_and_bucket_only_with_a_token(service: Service) -> None:
    labels = {"nvidia.com/gpu.product": "H100", "nvidia.com/gpu.memory": "many"}
    nodes = [
        {"metadata": {"name": f"node-{n}", "labels": labels}, "status": {"allocatable": {health.GPU: count}}}
        for n, count in enumerate(["2", "1", "1k", ""])
    ]
    cluster: Any = service.cluster
    cluster.nodes = lambda: nodes
    plain = service.send("GET", "/health").json()
    wrong = service.send("GET", "/health", headers={"Authorization": "Bearer x"}).json()
    assert plain == wrong
    assert plain["gpus"] == [{"count": 3, "name": "H100"}]
    assert set(plain["s3"]) == {"ok"}
    assert "node-" not in json.dumps(plain)
    known = service.ask("GET", "/health").json()
    assert [gpu["node"] for gpu in known["gpus"]] == ["node-0", "node-1"]
    assert known["gpus"][0]["memory_mib"] is None
    assert known["s3"]["bucket"] == s3.bucket()


def test_a_token_file_that_holds_no_digest_locks_nobody_out(tmp_path: Path, bucket: Bucket) -> None:
    for name, content in (("broken", b"\xff\xfe all"), ("empty", b""), ("spelled", "é".encode())):
        (tmp_path / name).write_bytes(content)
    assert Service(tmp_path).ask("GET", "/jobs").status_code == 200


# -- JSON of others -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [DEEP, '{"a": ' + DEEP + "}", "[", "1", '"x"', "{} {}", '{"a": NaN}', '{"a": ' + HUGE + "}"]
)
def test_what_is_no_object_is_refused_whatever_it_is(text: str) -> None:
    with pytest.raises(ValidationFailed):
        json_text.parse_object(text, "It", "Correct it.")


@pytest.mark.parametrize(
    "text", ["{}", ' {"a": [[1.5, "[[[["]]}\n', '{"a": "\\"[{"}', '{"a": ' + "[" * 49 + "]" * 49 + "}"]
)
def test_an_object_is_read_as_json_reads_it(text: str) -> None:
    assert json_text.parse_object(text.encode(), "It", "Correct it.") == json.loads(text)
