"""Bad drops of every kind fail on their own and do not delay others; finished drops cost no requests."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.clients import s3
from pipeline.incluster import dropped_files, intake, markers
from pipeline.jobs import ids
from steps.runtime.contract import VIEW_NAMES
from steps.runtime.errors import ClusterUnavailable, ValidationFailed
from tests.pipeline.doubles import START, Bucket, Namespace, bucket, client_error

__all__ = ["bucket"]
DEEP = b"[" * 100_000 + b"]" * 100_000
FILES = {f"{folder}/{view}.png": b"x" for folder in ("multi_views", "depth_renders") for view in VIEW_NAMES}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Namespace:
    monkeypatch.setattr(intake, "RETRY_DELAY_SECONDS", 0.0)
    return Namespace()


def drop_folder(bucket: Bucket, name: str, marker: bytes = b"{}", files: dict[str, bytes] = FILES) -> str:
    """Uploads a folder drop and its marker. Returns the id of its job."""
    for path, data in files.items():
        bucket.put_object(f"drops/{name}/{path}", data)
    key = f"drops/{name}/_READY.json"
    return ids.id_from(key, bucket.put_object(key, marker)["ETag"].strip('"'))


def drop_zip(bucket: Bucket, name: str, data: bytes = b"zip") -> str:
    return ids.id_from(f"drops/{name}.zip", bucket.put_object(f"drops/{name}.zip", data)["ETag"].strip('"'))


def failed(bucket: Bucket, name: str) -> Any:
    """The error in a drop's _FAILED.json."""
    return json.loads(bucket.objects[f"drops/{name}/_FAILED.json"][-1]["data"])["error"]


# -- every drop ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", [b"", b" \n", b"{}", b"\xef\xbb\xbf{}", b'{"options": {"model": "nvdiffrec"}}'])
def test_an_empty_marker_completes_a_drop_as_well_as_a_full_one(
    bucket: Bucket, cluster: Namespace, marker: bytes
) -> None:
    job = drop_folder(bucket, "mug", marker)
    assert intake.reconcile(cluster, "sixview") == {job: "started"}
    assert set(cluster.workflows) == {f"sixview-{job}"}


BAD = {
    "no-json": (b"hello", "VALIDATION_FAILED"),
    "deep": (DEEP, "VALIDATION_FAILED"),
    "deep-options": (b'{"options": {"model": ' + DEEP + b"}}", "VALIDATION_FAILED"),
    "a-list": (b"[]", "VALIDATION_FAILED"),
    "digits": (b'{"options": {"grid": ' + b"9" * 5000 + b"}}", "VALIDATION_FAILED"),
    "not-a-number": (b'{"options": {"grid": NaN}}', "VALIDATION_FAILED"),
    "infinite": (b'{"options": {"grid": 1e999}}', "VALIDATION_FAILED"),
    "latin-1": (b'{"options": {"grid": "\xe4"}}', "VALIDATION_FAILED"),
    "surrogate": (b'{"checksums": {"\\ud800": "0"}}', "VALIDATION_FAILED"),
    "huge": (b'{"checksums": {}}' + b" " * 1_000_000, "VALIDATION_FAILED"),
    "options-list": (b'{"options": []}', "VALIDATION_FAILED"),
    "strange-path": (b'{"checksums": {"multi_views/front.png\\u0000\\u001b[2J": "0"}}', "VALIDATION_FAILED"),
}


def test_a_marker_that_cannot_be_read_is_its_drop_s_own_failure(bucket: Bucket, cluster: Namespace) -> None:
    for name, (marker, _) in BAD.items():
        drop_folder(bucket, name, marker)
    good = drop_zip(bucket, "z-good")
    done = intake.reconcile(cluster, "sixview")
    assert done.pop(good) == "started"
    assert set(done.values()) == {"refused"}
    for name, (_, code) in BAD.items():
        assert failed(bucket, name)["code"] == code, name
    assert intake.reconcile(cluster, "sixview") == {}  # all are settled


@pytest.mark.parametrize("files", [{}, {"readme.txt": b"x"}, {"cameras.json": b"{}"}])
def test_a_marker_without_files_fails_by_their_number(
    bucket: Bucket, cluster: Namespace, files: dict[str, bytes]
) -> None:
    drop_folder(bucket, "mug", b"{}", files)
    assert list(intake.reconcile(cluster, "sixview").values()) == ["refused"]
    assert failed(bucket, "mug")["code"] == "INVALID_FILE_COUNT"


@pytest.mark.parametrize(
    ("code", "expected"), [("InvalidObjectState", "STORAGE_UNAVAILABLE"), ("AccessDenied", "STORAGE_UNAVAILABLE")]
)
def test_a_drop_that_the_store_refuses_is_retried_after_the_others_and_then_failed(
    bucket: Bucket, cluster: Namespace, code: str, expected: str
) -> None:
    drop_zip(bucket, "a-frozen")
    good = drop_zip(bucket, "b-good", b"another")
    bucket.refused["drops/a-frozen.zip"] = code
    done = intake.reconcile(cluster, "sixview")
    assert done[good] == "started"
    assert failed(bucket, "a-frozen")["code"] == expected
    assert bucket.requests["head"] >= intake.MAX_ATTEMPTS


def test_an_unexpected_error_is_an_unknown_error(
    bucket: Bucket, cluster: Namespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a\x1b[2Jb")

    job = drop_zip(bucket, "odd\x1b[2J")
    monkeypatch.setattr(dropped_files, "prepare_input", broken)
    assert intake.reconcile(cluster, "sixview") == {job: "refused"}
    assert failed(bucket, "odd\x1b[2J")["code"] == "UNKNOWN_ERROR"
    assert "\x1b" not in capsys.readouterr().err


def test_a_name_too_long_for_a_result_marker_has_its_record_and_delays_no_other_drop(
    bucket: Bucket, cluster: Namespace
) -> None:
    job = drop_folder(bucket, "long", b"hello")
    bucket.refused["drops/long/_FAILED.json"] = "KeyTooLongError"
    good = drop_zip(bucket, "z-good")
    assert intake.reconcile(cluster, "sixview") == {job: "refused", good: "started"}
    assert s3.find_record(job)


# -- what is nobody's own fault -----------------------------------------------------------------------------------------


def test_a_store_that_is_away_ends_the_run_and_fails_no_drop(bucket: Bucket, cluster: Namespace) -> None:
    drop_zip(bucket, "mug")

    class Leaving(Namespace):
        def get(self, name: str) -> dict[str, Any] | None:
            bucket.away = True
            return None

    with pytest.raises(type(client_error("x"))):
        intake.reconcile(Leaving(), "sixview")
    assert "drops/mug/_FAILED.json" not in bucket.objects


def run_intake(*key: str) -> None:
    intake.main(["here", "sixview", *key], standalone_mode=False)


def test_a_cluster_that_takes_no_workflow_fails_no_drop_but_the_run(
    bucket: Bucket, cluster: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = drop_zip(bucket, "mug")
    cluster.refusing = ClusterUnavailable("exceeded quota")
    assert intake.reconcile(cluster, "sixview") == {job: "waiting"}
    monkeypatch.setattr(intake, "connect", lambda _: cluster)
    with pytest.raises(SystemExit) as exited:
        run_intake()
    assert exited.value.code == 40
    cluster.refusing = None
    assert intake.reconcile(cluster, "sixview") == {job: "started"}


def test_a_template_that_is_missing_is_the_installation_s_fault(bucket: Bucket, cluster: Namespace) -> None:
    drop_zip(bucket, "mug")
    cluster.template = lambda name: None  # type: ignore[method-assign]
    with pytest.raises(ValidationFailed):
        intake.reconcile(cluster, "sixview")
    assert "drops/mug/_FAILED.json" not in bucket.objects


def test_the_run_succeeds_whatever_is_wrong_with_drops(
    bucket: Bucket, cluster: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop_folder(bucket, "mug", DEEP)
    monkeypatch.setattr(intake, "connect", lambda _: cluster)
    run_intake()
    run_intake("drops%2Fmug%2F_READY.json")
    run_intake("drops/else\n")


# -- ids ----------------------------------------------------------------------------------------------------------------


def test_what_was_done_under_an_id_of_eight_characters_is_not_done_again(bucket: Bucket, cluster: Namespace) -> None:
    job = drop_zip(bucket, "mug")
    drop = intake.read_bucket().drops[0]
    old = {"job_id": job[:8], "status": "completed", "error": None, "drop": asdict(drop)}
    s3.write_json(f"records/{job[:8]}.json", old)
    assert intake.reconcile(cluster, "sixview") == {job: "recorded"}
    done = json.loads(bucket.objects["drops/mug/_DONE.json"][-1]["data"])
    assert done["links"]["result.zip"] == f"s3://sixview/results/{job[:8]}/result.zip"
    for name in ("", "mug"):
        assert intake.read_bucket(name).unfinished() == []


def test_what_still_runs_under_an_id_of_eight_characters_is_not_begun_again(bucket: Bucket, cluster: Namespace) -> None:
    job = drop_zip(bucket, "mug")
    annotations = {markers.ANNOTATION: json.dumps(asdict(intake.read_bucket().drops[0]))}
    cluster.workflows[f"sixview-{job[:8]}"] = {"metadata": {"name": "x", "annotations": annotations}, "status": {}}
    assert intake.reconcile(cluster, "sixview") == {}
    cluster.workflows[f"sixview-{job[:8]}"]["metadata"]["annotations"] = {markers.ANNOTATION: DEEP.decode()}
    assert intake.reconcile(cluster, "sixview") == {job: "started"}


def test_a_workflow_that_took_a_drop_s_name_does_not_pass_for_it(bucket: Bucket, cluster: Namespace) -> None:
    job = drop_zip(bucket, "mug")
    cluster.create({"metadata": {"name": f"sixview-{job}"}, "spec": {"workflowTemplateRef": {}}})
    assert intake.reconcile(cluster, "sixview") == {job: "refused"}
    assert failed(bucket, "mug")["code"] == "VALIDATION_FAILED"


# -- the plan -----------------------------------------------------------------------------------------------------------


def versions(count: int) -> Iterator[dict[str, Any]]:
    """Object versions of a bucket whose drops are all done."""
    for number in range(count):
        name = f"set-{number:06d}"
        etag = hashlib.md5(name.encode()).hexdigest()
        for key, seconds in ((f"{name}.zip", 0), (f"{name}/_DONE.json", 60)):
            yield {
                "Key": f"drops/{key}",
                "ETag": f'"{etag}"',
                "VersionId": f"{etag}-{seconds}",
                "LastModified": START + timedelta(seconds=number + seconds),
                "IsLatest": True,
                "Size": 1,
            }


def test_listing_drops_takes_little_memory() -> None:
    """At most 2 KiB per drop."""
    tracemalloc.start()
    drops, marked_at = intake.parse_versions(versions(2_000))
    records = (
        {"Key": f"records/{drop.legacy_job}.json", "LastModified": START + timedelta(days=1)} for drop in drops[1:]
    )
    listing = intake.BucketState(drops, marked_at, intake.record_times(drops, records))
    assert len(drops) == 2_000
    assert [drop.name for drop in listing.unfinished()][-1] == "set-001999"  # their marks are older than their records
    assert tracemalloc.get_traced_memory()[1] < 2_000 * 2048
    tracemalloc.stop()


def test_finished_drops_cost_no_requests_of_their_own(bucket: Bucket, cluster: Namespace) -> None:
    for number in range(50):
        drop_folder(bucket, f"bad-{number}", b"hello", {})
    intake.reconcile(cluster, "sixview")
    bucket.requests.clear()
    cluster.requests.clear()
    assert intake.reconcile(cluster, "sixview") == {}
    assert sum(bucket.requests.values()) + sum(cluster.requests.values()) <= 4


def test_a_result_marker_older_than_its_record_is_rewritten_once(bucket: Bucket, cluster: Namespace) -> None:
    """Two processes that finalize a job at once: record, result marker, record again."""
    job = drop_folder(bucket, "mug", b"hello")
    intake.reconcile(cluster, "sixview")
    s3.write_json(s3.record_key(job), s3.read_json(s3.record_key(job)))
    assert intake.reconcile(cluster, "sixview") == {job: "recorded"}
    assert intake.reconcile(cluster, "sixview") == {}


def test_the_same_bytes_twice_are_one_drop_of_the_first_moment() -> None:
    first, second = ({**next(versions(1)), "LastModified": START + timedelta(days=n)} for n in (1, 2))
    drops, _ = intake.parse_versions([second, first])
    assert [drop.dropped_at for drop in drops] == [markers.timestamp(datetime(2026, 1, 2, tzinfo=UTC))]
