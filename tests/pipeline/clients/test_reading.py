"""Malformed workflows, records and markers affect their own job only."""

from __future__ import annotations

import asyncio
import base64
import copy
import gzip
import json
from datetime import UTC, datetime
from typing import Any, cast

import httpx
import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cli import console
from pipeline.cli.cluster_commands import remote
from pipeline.clients import reading, retries, s3
from pipeline.clients.kubernetes import Page
from pipeline.gateway import app as gateway_app
from pipeline.gateway.dependencies import Gateway, Options
from pipeline.gateway.informer import JobInformer
from pipeline.gateway.tokens import RateLimiter, Tokens
from pipeline.incluster import exit_handler, markers, stuck_pods
from pipeline.jobs import failure, logs, records, service, status
from steps.runtime.errors import StepError
from tests.pipeline.finished import FAILURE, JOB, NAME, RECORD, VIEW_TYPES, head, with_record, workflow

DEEP = "[" * 100_000 + "]" * 100_000
FUZZ = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


# -- what others may write ----------------------------------------------------------------------------------------------


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of the value and of all values inside it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, item in inner for p in paths_in(item, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    """A copy with another value at a path."""
    if not path:
        return copy.deepcopy(by)
    result = copy.deepcopy(value)
    parent = result
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = copy.deepcopy(by)
    return result


ODD: list[Any] = [
    None,
    True,
    -1,
    10**30,
    10**400,
    1e308,
    "",
    "soon",
    "null",
    "[]",
    "{}",
    "\x1b[2J\r\n",
    "\ud800",
    "9" * 5000,
    "3/0",
    "-1/-2",
    "²/3",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "2026-01-01T00:00:00",
    "true",
    "Dancing",
    "Pod",
    "Running",
    DEEP,
    "x" * 100_000,
    json.dumps({"code": 7, "details": []}),
    json.dumps({"code": "X", "details": {"pipeline_stage": {}, "faults": {"a": 1}, "missing": 3, "engine": []}}),
    '{"code": "X", "details": {"a": NaN, "b": 1e999, "c": "\\ud800"}}',
    json.dumps({"job_id": JOB, "status": "failed", "ended_at": "2026-01-01T00:01:00Z", "error": [1], "stage": {}}),
    [],
    [None],
    [{"name": "model"}, {"name": ["x"], "value": {}}, 7],
    {},
    {"": None},
    {"parameters": {}},
    {"parameters": [{"name": "failure", "value": {}}, {"value": "x"}, {"name": "engine", "value": 7}]},
]
GOOD = with_record(workflow())
PATHS = paths_in(GOOD)
odd_values = st.one_of(
    st.sampled_from(ODD),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
)


@st.composite
def malformed_workflows(draw: st.DrawFn) -> Any:
    """Workflows in any state with one to three malformed values; name and resourceVersion are valid, as the API server sets
    them."""
    wf = workflow() if draw(st.booleans()) else with_record(workflow())
    if draw(st.booleans()):
        wf["status"]["phase"] = draw(st.sampled_from(["", "Pending", "Running", "Succeeded", "Error"]))
        wf["metadata"]["labels"].pop("workflows.argoproj.io/completed")
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(PATHS[1:]))
        try:
            wf = replaced(wf, path, draw(odd_values))
        except (KeyError, IndexError, TypeError):  # an earlier one has taken that place away
            continue
    added = draw(
        st.sampled_from(
            ["", status.CANCEL_REQUESTED, failure.ENDED_BY, "sixview.dev/drop", status.RECORD, "shutdown", "packed"]
        )
    )
    if added == "packed":
        wf["status"] = {"compressedNodes": draw(odd_values)}
    elif added == "shutdown":
        wf["spec"] = {"shutdown": draw(odd_values)}
    elif added and isinstance(wf["metadata"], dict):
        wf["metadata"]["annotations"] = {added: draw(odd_values)}
    if isinstance(wf["metadata"], dict):
        wf["metadata"] |= {"name": "sixview-bad00000", "resourceVersion": "101"}
    return wf


def check_status(job_status: Any) -> None:
    """Asserts that every field of a job's status has its type and can be encoded as JSON."""
    assert set(VIEW_TYPES) <= set(job_status)
    for name, kinds in VIEW_TYPES.items():
        assert isinstance(job_status[name], kinds), (name, job_status[name])
    assert job_status["status"] in status.STATUSES
    assert 0 <= job_status["progress"] <= 100
    assert all(datetime.fromisoformat(job_status[name]) for name in ("created_at", "updated_at"))
    if job_status["error"] is not None:
        assert {name: type(value) for name, value in job_status["error"].items()} == {
            "code": str,
            "message": str,
            "suggestion": str,
            "details": dict,
        }
    json.dumps(job_status, allow_nan=False, ensure_ascii=False).encode()


# -- every reader of workflows -------------------------------------------------------------------------------------------


@FUZZ
@given(malformed_workflows())
def test_any_workflow_has_a_status(wf: Any) -> None:
    check_status(status.of_workflow(wf))
    check_status(status.of_workflow(head(wf)))
    status.is_job(wf)
    service.retry_delay(wf, datetime.now(UTC))
    values = failure.describe(wf, [], "Failed")
    assert all(isinstance(value, str) for value in values.values())
    assert set(values) == set(failure.EXIT_HANDLER_OUTPUTS)
    records.annotation(wf, exit_handler.ending(values))
    console.print_failure(status.of_workflow(wf)["error"] or FAILURE)


@FUZZ
@given(malformed_workflows())
def test_a_retry_of_a_malformed_workflow_is_refused_with_advice(wf: Any) -> None:
    try:
        restarted, deleted_pods = retries.restarted(wf)
    except StepError as error:
        assert error.suggestion
    else:
        assert isinstance(restarted["status"]["nodes"], dict)
        assert all(isinstance(pod, str) for pod in deleted_pods)


@FUZZ
@given(odd_values, st.booleans())
def test_any_record_has_a_status(value: Any, entirely: bool) -> None:
    for name in [""] if entirely else list(RECORD):
        check_status(status.of_record(value if entirely else RECORD | {name: value}))


class Store:
    """A bucket in which every read returns `data`. written: key -> JSON."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.data: bytes | None = None
        self.written: dict[str, Any] = {}
        monkeypatch.setattr(s3, "read", lambda key, **more: self.data)
        monkeypatch.setattr(s3, "write_json", lambda key, value: self.written.update({key: json.dumps(value)}))
        there = {"Key": s3.record_key(JOB), "LastModified": datetime(2026, 1, 1, tzinfo=UTC)}
        monkeypatch.setattr(s3, "listed", lambda prefix: iter([there] if there["Key"].startswith(prefix) else []))
        monkeypatch.setattr(s3, "purge", lambda *args, **more: None)
        monkeypatch.setattr(
            markers, "write_result_marker", lambda name: isinstance(name, str) or pytest.fail(str(name))
        )


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(monkeypatch)


@FUZZ
@given(malformed_workflows())
def test_a_record_is_written_of_any_workflow(store: Store, wf: Any) -> None:
    check_status(exit_handler.finalize(wf))
    assert store.written


@pytest.mark.parametrize(
    "data", [b"", b"null", b"7", b"[]", b"{", b"\xff\xfe", DEEP.encode(), b'{"status": ' + DEEP.encode() + b"}"]
)
def test_a_malformed_record_says_so_in_its_own_status(store: Store, data: bytes) -> None:
    store.data = data
    job_status = records.read(JOB)
    check_status(job_status)
    assert job_status and job_status["job_id"] == JOB
    assert "cannot be read" in job_status["error"]["message"]
    assert s3.read_json("records/x.json") is None or isinstance(s3.read_json("x"), dict | list | int)


@FUZZ
@given(malformed_workflows())
def test_the_logs_of_any_workflow_have_their_headings(store: Store, wf: Any) -> None:
    try:
        assert all(isinstance(heading, str) for heading, _ in logs.job_logs(Listed(wf), JOB))
    except StepError as error:
        assert error.suggestion


@FUZZ
@given(odd_values)
def test_no_malformed_pod_ends_the_reconciler(value: Any) -> None:
    pod = {
        "metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {},
        "status": {
            "conditions": [{"type": "PodScheduled", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{"image": "x", "state": {"waiting": {"reason": "ErrImagePull", "message": value}}}],
        },
    }
    wait = stuck_pods.Reconciler.wait_of_pod(cast(stuck_pods.Reconciler, None), pod, [])
    assert wait is None or wait.reason


# -- one bad one among good ones ----------------------------------------------------------------------------------------


class Listed:
    """A cluster client with these workflows."""

    namespace = "sixview"

    def __init__(self, *objects: Any) -> None:
        self.workflows = [reading.decoded(json.dumps(one)) for one in objects]

    def get(self, name: str) -> Any:
        of_name = [one for one in self.workflows if reading.mapping(one["metadata"]).get("name") == name]
        return of_name[0] if of_name else self.workflows[0]

    def pages(self, selector: str = "", full: bool = True) -> Any:
        for one in self.workflows:
            ended = reading.mapping(one["metadata"]).get("labels") == workflow()["metadata"]["labels"]
            if not selector.endswith("=true") or ended != ("!=" in selector):
                yield Page([one if full else head(one)], "200")

    def watch(self, selector: str, version: str, seconds: int) -> Any:
        return ((kind, copy.deepcopy(one)) for one in self.workflows for kind in ("ADDED", "MODIFIED"))


def good(name: str) -> dict[str, Any]:
    return with_record(workflow(f"sixview-{name}"))


@FUZZ
@given(malformed_workflows())
def test_one_bad_workflow_hides_no_other_from_the_watch(wf: Any) -> None:
    names = {"good1111", "good2222"}
    informer = JobInformer(Listed(good("good1111"), wf, good("good2222")))  # type: ignore[arg-type]
    informer._sync()
    assert names <= set(informer.jobs)
    assert informer.is_healthy()
    assert sum(informer.counts().values()) == len(informer.jobs)
    informer.active_of("alice")
    for job_status in informer.jobs.values():
        check_status(informer.get(job_status["job_id"]))


@pytest.fixture(scope="module")
def api() -> FastAPI:
    return gateway_app.create(Options(), Listed())  # type: ignore[arg-type]


@FUZZ
@given(wf=malformed_workflows())
def test_one_bad_workflow_hides_no_other_from_http(api: FastAPI, wf: Any) -> None:
    informer = JobInformer(Listed(good("good1111"), wf, good("good2222")))  # type: ignore[arg-type]
    informer._sync()
    api.state.gateway = Gateway(Options(), informer.cluster, informer, Tokens(None), RateLimiter(10**9), None)  # type: ignore[arg-type]
    response = asyncio.run(http_get(api, "/jobs"))
    assert response.status_code == 200
    assert {"good1111", "good2222"} <= {job["job_id"] for job in response.json()}


async def http_get(api: FastAPI, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api), base_url="http://gateway") as session:
        return await session.get(path)


@FUZZ
@given(wf=malformed_workflows())
def test_one_bad_workflow_hides_no_other_from_the_command(monkeypatch: pytest.MonkeyPatch, wf: Any) -> None:
    monkeypatch.setattr(
        "pipeline.cli.cluster_commands.connect_cluster",
        lambda chosen: chosen.clear() or Listed(good("good1111"), wf),
    )
    for words in (["list"], ["list", "--json"], ["status", "bad00000"], ["status", "--json", "bad00000"]):
        done = CliRunner().invoke(remote, words)
        assert done.exit_code == 0, done.output
        assert words[0] != "list" or "good1111" in done.output


# -- single cases -------------------------------------------------------------------------------------------------------


def test_a_cancellation_request_without_a_time_is_named_in_the_status() -> None:
    running = workflow()
    running["status"]["phase"] = "Running"
    running["metadata"]["annotations"] = {status.CANCEL_REQUESTED: "soon"}
    job_status = status.of_workflow(running)
    assert job_status["status"] == "processing"
    assert "sixview.dev/cancel-requested='soon' is no time" in job_status["note"]


def test_a_malformed_failure_record_is_named_in_the_error() -> None:
    wf = workflow()
    wf["status"]["nodes"][f"{NAME}-8"]["outputs"]["parameters"] = [{"name": "failure", "value": DEEP}]
    job_status = status.of_workflow(wf)
    assert (job_status["status"], job_status["error"]["code"]) == ("failed", "UNKNOWN_ERROR")
    assert "cannot be read" in job_status["error"]["message"]


def test_compressed_nodes_beyond_the_limit_are_not_decompressed() -> None:
    wf = workflow()
    bomb = base64.b64encode(gzip.compress(b" " * (64 << 20) + b"{}")).decode()
    wf["status"] = {"phase": "Running", "compressedNodes": bomb}
    assert status.of_workflow(wf)["status"] == "queued"
    assert "compressedNodes" in status.of_workflow(wf)["note"]


def test_values_nested_too_deep_become_null_and_the_rest_is_decoded() -> None:
    text = (
        '{"items": [{"a": "]}\\"[{"}, {"b": ' + DEEP + ', "c": 1}, {"d": ' + '{"x":' * 9000 + "1" + "}" * 9000 + "}]}"
    )
    items = reading.decoded(text)["items"]
    assert items[0] == {"a": ']}"[{'}
    assert items[1]["c"] == 1
    assert reading.depth_of(items, 1000) <= reading.MAX_DEPTH + 1
    with pytest.raises(ValueError):
        reading.decoded(DEEP[:-1])


def test_the_status_of_a_finished_job_is_the_same_from_its_metadata() -> None:
    wf = with_record(workflow())
    assert status.of_workflow(head(wf)) == status.of_workflow(wf)
    assert status.is_job(head(wf))
    in_full = status.of_workflow(workflow())
    differs = {name for name in VIEW_TYPES if status.of_workflow(wf)[name] != in_full[name]}
    assert differs <= {"progress", "updated_at"}


@pytest.mark.parametrize(
    "stale",
    [{"job_id": "other"}, {"status": "completed"}, {"ended_at": "2025-12-31T00:00:00Z"}, {"ended_at": "soon"}],
)
def test_the_record_of_another_end_is_not_taken_for_this_one(stale: dict[str, Any]) -> None:
    wf = with_record(workflow(), **stale)
    assert status.of_annotation(wf) is None
    assert status.of_workflow(wf)["error"]["code"] == FAILURE["code"]
