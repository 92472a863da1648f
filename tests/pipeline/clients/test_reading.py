"""Whatever others write into a workflow, a record or a marker, it spoils its own view and nothing beside it."""

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
from pipeline.gateway import app as service
from pipeline.gateway.dependencies import Gateway, Options
from pipeline.gateway.informer import JobInformer
from pipeline.gateway.tokens import RateLimiter, Tokens
from pipeline.incluster import exit_handler, markers, stuck_pods
from pipeline.jobs import failure, logs, records, status
from pipeline.jobs import service as jobs
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


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of every value within a value, and of itself."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for key, item in inner for p in paths(item, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    """A copy with another value at one place."""
    if not path:
        return copy.deepcopy(by)
    found = copy.deepcopy(value)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = copy.deepcopy(by)
    return found


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
PATHS = paths(GOOD)
odd = st.one_of(
    st.sampled_from(ODD),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
)


@st.composite
def spoiled(draw: st.DrawFn) -> Any:
    """A workflow with one to three values that do not belong there, of a job in any state. Name and version are the cluster's."""
    found = workflow() if draw(st.booleans()) else with_record(workflow())
    if draw(st.booleans()):
        found["status"]["phase"] = draw(st.sampled_from(["", "Pending", "Running", "Succeeded", "Error"]))
        found["metadata"]["labels"].pop("workflows.argoproj.io/completed")
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(PATHS[1:]))
        try:
            found = replaced(found, path, draw(odd))
        except (KeyError, IndexError, TypeError):  # an earlier one has taken that place away
            continue
    added = draw(
        st.sampled_from(
            ["", status.CANCEL_REQUESTED, failure.ENDED_BY, "sixview.dev/drop", status.RECORD, "shutdown", "packed"]
        )
    )
    if added == "packed":
        found["status"] = {"compressedNodes": draw(odd)}
    elif added == "shutdown":
        found["spec"] = {"shutdown": draw(odd)}
    elif added and isinstance(found["metadata"], dict):
        found["metadata"]["annotations"] = {added: draw(odd)}
    if isinstance(found["metadata"], dict):
        found["metadata"] |= {"name": "sixview-bad00000", "resourceVersion": "101"}
    return found


def checked(view: Any) -> None:
    """Every field with its type, and nothing that JSON cannot say."""
    assert set(VIEW_TYPES) <= set(view)
    for name, kinds in VIEW_TYPES.items():
        assert isinstance(view[name], kinds), (name, view[name])
    assert view["status"] in status.STATUSES
    assert 0 <= view["progress"] <= 100
    assert all(datetime.fromisoformat(view[name]) for name in ("created_at", "updated_at"))
    if view["error"] is not None:
        assert {name: type(value) for name, value in view["error"].items()} == {
            "code": str,
            "message": str,
            "suggestion": str,
            "details": dict,
        }
    json.dumps(view, allow_nan=False, ensure_ascii=False).encode()


# -- every reader of workflows -------------------------------------------------------------------------------------------


@FUZZ
@given(spoiled())
def test_whatever_stands_in_a_workflow_it_has_a_view(found: Any) -> None:
    checked(status.of_workflow(found))
    checked(status.of_workflow(head(found)))
    status.is_job(found)
    jobs.retry_delay(found, datetime.now(UTC))
    values = failure.describe(found, [], "Failed")
    assert all(isinstance(value, str) for value in values.values())
    assert set(values) == set(failure.EXIT_HANDLER_OUTPUTS)
    records.annotation(found, exit_handler.ending(values))
    console.print_failure(status.of_workflow(found)["error"] or FAILURE)


@FUZZ
@given(spoiled())
def test_a_retry_of_what_cannot_be_read_is_refused_in_words(found: Any) -> None:
    try:
        again, gone = retries.restarted(found)
    except StepError as error:
        assert error.suggestion
    else:
        assert isinstance(again["status"]["nodes"], dict)
        assert all(isinstance(pod, str) for pod in gone)


@FUZZ
@given(odd, st.booleans())
def test_whatever_lies_in_a_record_it_has_a_view(value: Any, whole: bool) -> None:
    for name in [""] if whole else list(RECORD):
        checked(status.of_record(value if whole else RECORD | {name: value}))


class Store:
    """Of the bucket: one object of any content; what is written there."""

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
@given(spoiled())
def test_a_record_is_written_of_any_workflow(store: Store, found: Any) -> None:
    checked(exit_handler.finalize(found))
    assert store.written


@pytest.mark.parametrize(
    "data", [b"", b"null", b"7", b"[]", b"{", b"\xff\xfe", DEEP.encode(), b'{"status": ' + DEEP.encode() + b"}"]
)
def test_a_record_that_cannot_be_read_says_so_in_its_own_view(store: Store, data: bytes) -> None:
    store.data = data
    found = records.read(JOB)
    checked(found)
    assert found and found["job_id"] == JOB
    assert "cannot be read" in found["error"]["message"]
    assert s3.read_json("records/x.json") is None or isinstance(s3.read_json("x"), dict | list | int)


@FUZZ
@given(spoiled())
def test_the_logs_of_any_workflow_have_their_headings(store: Store, found: Any) -> None:
    try:
        assert all(isinstance(heading, str) for heading, _ in logs.of_job(Listed(found), JOB))
    except StepError as error:
        assert error.suggestion


@FUZZ
@given(odd)
def test_a_pod_of_any_content_does_not_end_the_reconciler_s_look(value: Any) -> None:
    pod = {
        "metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {},
        "status": {
            "conditions": [{"type": "PodScheduled", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            "containerStatuses": [{"image": "x", "state": {"waiting": {"reason": "ErrImagePull", "message": value}}}],
        },
    }
    told = stuck_pods.Reconciler.wait_of_pod(cast(stuck_pods.Reconciler, None), pod, [])
    assert told is None or told.reason


# -- one bad one among good ones ----------------------------------------------------------------------------------------


class Listed:
    """A cluster with some workflows."""

    namespace = "sixview"

    def __init__(self, *found: Any) -> None:
        self.found = [reading.decoded(json.dumps(one)) for one in found]

    def get(self, name: str) -> Any:
        named = [one for one in self.found if reading.mapping(one["metadata"]).get("name") == name]
        return named[0] if named else self.found[0]

    def pages(self, selector: str = "", full: bool = True) -> Any:
        for one in self.found:
            ended = reading.mapping(one["metadata"]).get("labels") == workflow()["metadata"]["labels"]
            if not selector.endswith("=true") or ended != ("!=" in selector):
                yield Page([one if full else head(one)], "200")

    def watch(self, selector: str, version: str, seconds: int) -> Any:
        return ((kind, copy.deepcopy(one)) for one in self.found for kind in ("ADDED", "MODIFIED"))


def good(name: str) -> dict[str, Any]:
    return with_record(workflow(f"sixview-{name}"))


@FUZZ
@given(spoiled())
def test_one_bad_workflow_hides_no_other_from_the_watch(found: Any) -> None:
    names = {"good1111", "good2222"}
    watched = JobInformer(Listed(good("good1111"), found, good("good2222")))  # type: ignore[arg-type]
    watched._sync()
    assert names <= set(watched.jobs)
    assert watched.is_healthy()
    assert sum(watched.counts().values()) == len(watched.jobs)
    watched.active_of("alice")
    for view in watched.jobs.values():
        checked(watched.get(view["job_id"]))


@pytest.fixture(scope="module")
def api() -> FastAPI:
    return service.create(Options(), Listed())  # type: ignore[arg-type]


@FUZZ
@given(found=spoiled())
def test_one_bad_workflow_hides_no_other_from_http(api: FastAPI, found: Any) -> None:
    watched = JobInformer(Listed(good("good1111"), found, good("good2222")))  # type: ignore[arg-type]
    watched._sync()
    api.state.gateway = Gateway(Options(), watched.cluster, watched, Tokens(None), RateLimiter(10**9), None)  # type: ignore[arg-type]
    answer = asyncio.run(asked(api, "/jobs"))
    assert answer.status_code == 200
    assert {"good1111", "good2222"} <= {job["job_id"] for job in answer.json()}


async def asked(api: FastAPI, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api), base_url="http://gateway") as session:
        return await session.get(path)


@FUZZ
@given(found=spoiled())
def test_one_bad_workflow_hides_no_other_from_the_command(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    monkeypatch.setattr(
        "pipeline.cli.cluster_commands.connect_cluster",
        lambda chosen: chosen.clear() or Listed(good("good1111"), found),
    )
    for words in (["list"], ["list", "--json"], ["status", "bad00000"], ["status", "--json", "bad00000"]):
        done = CliRunner().invoke(remote, words)
        assert done.exit_code == 0, done.output
        assert words[0] != "list" or "good1111" in done.output


# -- single cases -------------------------------------------------------------------------------------------------------


def test_a_cancellation_that_names_no_time_is_told_in_the_view() -> None:
    running = workflow()
    running["status"]["phase"] = "Running"
    running["metadata"]["annotations"] = {status.CANCEL_REQUESTED: "soon"}
    view = status.of_workflow(running)
    assert view["status"] == "processing"
    assert "sixview.dev/cancel-requested='soon' is no time" in view["note"]


def test_a_failure_record_that_cannot_be_read_is_told_in_the_error() -> None:
    found = workflow()
    found["status"]["nodes"][f"{NAME}-8"]["outputs"]["parameters"] = [{"name": "failure", "value": DEEP}]
    view = status.of_workflow(found)
    assert (view["status"], view["error"]["code"]) == ("failed", "UNKNOWN_ERROR")
    assert "cannot be read" in view["error"]["message"]


def test_packed_nodes_that_unpack_to_more_than_memory_are_not_unpacked() -> None:
    found = workflow()
    bomb = base64.b64encode(gzip.compress(b" " * (64 << 20) + b"{}")).decode()
    found["status"] = {"phase": "Running", "compressedNodes": bomb}
    assert status.of_workflow(found)["status"] == "queued"
    assert "compressedNodes" in status.of_workflow(found)["note"]


def test_what_is_nested_too_deep_is_null_and_the_rest_is_read() -> None:
    text = (
        '{"items": [{"a": "]}\\"[{"}, {"b": ' + DEEP + ', "c": 1}, {"d": ' + '{"x":' * 9000 + "1" + "}" * 9000 + "}]}"
    )
    found = reading.decoded(text)["items"]
    assert found[0] == {"a": ']}"[{'}
    assert found[1]["c"] == 1
    assert reading.depth_of(found, 1000) <= reading.MAX_DEPTH + 1
    with pytest.raises(ValueError):
        reading.decoded(DEEP[:-1])


def test_a_job_that_has_ended_is_shown_by_its_metadata_alone_as_by_the_whole() -> None:
    found = with_record(workflow())
    assert status.of_workflow(head(found)) == status.of_workflow(found)
    assert status.is_job(head(found))
    whole = status.of_workflow(workflow())
    differs = {name for name in VIEW_TYPES if status.of_workflow(found)[name] != whole[name]}
    assert differs <= {"progress", "updated_at"}


@pytest.mark.parametrize(
    "stale",
    [{"job_id": "other"}, {"status": "completed"}, {"ended_at": "2025-12-31T00:00:00Z"}, {"ended_at": "soon"}],
)
def test_the_record_of_another_end_is_not_taken_for_this_one(stale: dict[str, Any]) -> None:
    found = with_record(workflow(), **stale)
    assert status.of_annotation(found) is None
    assert status.of_workflow(found)["error"]["code"] == FAILURE["code"]
