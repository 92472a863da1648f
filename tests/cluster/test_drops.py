"""Drops in the bucket: each version becomes exactly one job, also when components are restarted."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipeline.clients import s3
from pipeline.clients.s3 import DROPS
from pipeline.incluster import markers
from pipeline.jobs import ids, status
from tests.cluster.client import BUCKET, SMALL, finished, folder, keys_of, kill_container, labels_of, submit
from tests.cluster.node import kubectl, wait_for
from tests.cluster.places import NAMESPACE

COUNT = int(os.environ.get("SIXVIEW_DROPS", "12"))
SEED = int(os.environ.get("SIXVIEW_DROPS_SEED", "0"))
NAMES = ("mug", "größe ä", "a%2Fb", "plus+and space", "日本", "deep/er", "quote'\"", "{{workflow.name}}")
# what is restarted in between: the event source, the sensor, the store
RESTARTED = ("eventsource-name=sixview-cpu-drops", "sensor-name=sixview-cpu-drops", "app.kubernetes.io/component=minio")
PATIENCE = 1500


def put(key: str, data: bytes) -> str:
    """Uploads an object, retrying while the store restarts. Returns its ETag."""
    for attempt in range(60):
        try:
            return str(s3.client().put_object(Bucket=BUCKET, Key=key, Body=data)["ETag"].strip('"'))
        except Exception:
            if attempt == 59:
                raise
            time.sleep(2)
    raise AssertionError


def ready_json(files: dict[str, bytes], **fields: Any) -> bytes:
    sums = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
    return json.dumps({"options": SMALL, "checksums": sums, **fields}).encode()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*_*/*.png"))}


def zipped(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return data.getvalue()


def drop_folder(name: str, files: dict[str, bytes], marker: bytes | None = None) -> str:
    """Uploads a folder drop and its marker. Returns the id of its job."""
    for path, data in files.items():
        put(f"{DROPS}{name}/{path}", data)
    key = f"{DROPS}{name}/_READY.json"
    return ids.id_from(key, put(key, marker if marker is not None else ready_json(files)))


def drop_zip(name: str, data: bytes) -> str:
    key = f"{DROPS}{name}.zip"
    return ids.id_from(key, put(key, data))


def workflows() -> dict[str, dict[str, Any]]:
    """The jobs that came from drops, by id."""
    listed = kubectl("-n", NAMESPACE, "get", "workflows", "-l", "sixview.dev/source=drop", "-o", "json").stdout
    return {status.job_of(w["metadata"]["name"]): w for w in json.loads(listed)["items"]}


def record(job: str) -> Any:
    return s3.find_record(job)


def result_marker(name: str) -> dict[str, Any]:
    """Content of a drop's _DONE.json or _FAILED.json, of which at most one exists; "mark": its name, "" for none."""
    markers_of = {part: s3.read_json(f"{DROPS}{name}/{part}") for part in markers.RESULT_MARKERS}
    existing = {part: content for part, content in markers_of.items() if content}
    assert len(existing) <= 1, f"{name} has both marks"
    return {"mark": next(iter(existing), ""), **next(iter(existing.values()), {})}


@pytest.fixture(scope="module")
def mug(inputs: str, sample_set: Callable[..., Path]) -> dict[str, bytes]:
    return files_of(sample_set("mug"))


def test_a_folder_and_a_zip_are_done_with_links_and_labels(mug: dict[str, bytes]) -> None:
    jobs = {"first": drop_folder("first", mug), "second": drop_zip("second", zipped(mug))}
    by_hand = submit("sixview-cpu")
    for name, job in jobs.items():
        wait_for(lambda name=name: bool(result_marker(name)["mark"]), 600, f"the mark of {name}")  # type: ignore[misc]
        marker = result_marker(name)
        assert (marker["mark"], marker["job_id"], marker["status"]) == ("_DONE.json", job, "completed")
        bucket, key = s3.split(marker["links"]["result.zip"])
        assert (bucket, key) == (BUCKET, s3.key_of(folder(f"sixview-{job}"), "result.zip"))
        assert s3.head(key)
        labels = labels_of(workflows()[job])
        assert (labels["source"], labels["status"]) == ("drop", "completed")
        finished(by_hand)  # argo submit leaves the same files
        assert set(keys_of(f"sixview-{job}")) == set(keys_of(by_hand))
    options = {p["name"]: p["value"] for p in workflows()[jobs["first"]]["spec"]["arguments"]["parameters"]}
    assert {k: options[k] for k in SMALL} == SMALL


BAD = {
    "no-json": (b"hello", "VALIDATION_FAILED"),
    "unknown-option": (b'{"options": {"gird": 1}}', "VALIDATION_FAILED"),
    "another-input": (b'{"options": {"input": "s3://private/mug"}}', "VALIDATION_FAILED"),
    "a-template": (b'{"options": {"grid": "{{=1}}"}}', "VALIDATION_FAILED"),
    "another-key": (b'{"inputs": 1}', "VALIDATION_FAILED"),
    "deep": (b"[" * 100_000 + b"]" * 100_000, "VALIDATION_FAILED"),
    "deep-option": (b'{"options": {"grid": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}", "VALIDATION_FAILED"),
    "wrong-sum": (json.dumps({"checksums": {"multi_views/front.png": "0" * 64}}).encode(), "VALIDATION_FAILED"),
    "missing-file": (json.dumps({"checksums": {"multi_views/front2.png": "0" * 64}}).encode(), "VALIDATION_FAILED"),
}


def test_a_bad_drop_ends_as_failed_with_its_record(mug: dict[str, bytes]) -> None:
    """What is wrong with the marker never becomes a workflow; what is wrong with the set is validate's to find."""
    jobs = {name: drop_folder(name, mug, marker) for name, (marker, _) in BAD.items()}
    eleven = dict(list(mug.items())[1:])
    jobs["eleven"] = drop_folder("eleven", eleven)
    jobs["none"] = drop_folder("none", {}, b"{}")
    empty = drop_folder("empty-marker", mug, b"")
    jobs["no-zip"] = drop_zip("no-zip", b"not a zip")
    expected = {name: code for name, (_, code) in BAD.items()} | {
        "eleven": "INVALID_FILE_COUNT",
        "none": "INVALID_FILE_COUNT",
        "no-zip": "INVALID_FILE_FORMAT",
    }
    wait_for(lambda: all(result_marker(name)["mark"] for name in jobs), 600, "every mark")
    for name, job in jobs.items():
        result = result_marker(name)
        assert (result["mark"], result["job_id"], result["error"]["code"]) == ("_FAILED.json", job, expected[name])
        assert record(job)["error"] == result["error"]
        assert (job in workflows()) == (name in ("eleven", "no-zip"))
    assert empty in workflows()  # an empty marker says no more than {}


@pytest.mark.alone
def test_every_version_becomes_one_job_whatever_is_restarted(mug: dict[str, bytes]) -> None:
    """Drops in random order: new ones, the same bytes again, changed bytes, and restarts in between."""
    chance = random.Random(SEED)
    expected: dict[str, str] = {}  # job -> name
    latest: dict[str, str] = {}  # name -> its last version's job
    for number in range(COUNT):
        again = list(latest) and chance.random() < 0.4
        place = chance.choice(list(latest)) if again else place_for(f"{chance.choice(NAMES)} {SEED}-{number}", chance)
        files = dict(mug)
        if chance.random() < 0.5 or not again:  # changed bytes; otherwise, for a name that is there, the same
            files["depth_renders/top.png"] += number.to_bytes(4, "big")  # behind the picture's end, where nobody looks
        folder = place.endswith("-dir")
        job = drop_folder(place, files) if folder else drop_zip(place, zipped(files))
        expected[job] = place
        latest[place] = job
        if number % 4 == 1:
            restart(RESTARTED[(number // 4) % len(RESTARTED)])
    wait_for(lambda: all(settled(job) for job in expected), PATIENCE, "every drop to become a job that ends")
    workflows_by_key = Counter(
        json.loads(w["metadata"]["annotations"]["sixview.dev/drop"])["key"] for w in workflows().values()
    )
    assert set(expected) <= set(workflows())
    jobs_by_key = Counter(key_of(place) for place in expected.values())
    assert {key: workflows_by_key[key] for key in jobs_by_key} == jobs_by_key
    for place, job in latest.items():
        wait_for(lambda place=place, job=job: result_marker(place).get("job_id") == job, 120, f"the mark of {place}")  # type: ignore[misc]


def place_for(name: str, chance: random.Random) -> str:
    """A new name; what ends in -dir is dropped as a folder."""
    return f"{name}-dir" if "/" in name or chance.random() < 0.5 else name


def key_of(place: str) -> str:
    return f"{DROPS}{place}/_READY.json" if place.endswith("-dir") else f"{DROPS}{place}.zip"


def settled(job: str) -> bool:
    try:
        return bool(record(job))
    except Exception:  # the store is on its way back
        return False


def restart(selector: str) -> None:
    """The store keeps its files in its pod: there the process alone is killed."""
    if "minio" in selector:
        kill_container(
            json.loads(kubectl("-n", NAMESPACE, "get", "pods", "-l", selector, "-o", "json").stdout)["items"][0],
            "minio",
        )
        return
    kubectl("-n", NAMESPACE, "delete", "pod", "-l", selector, "--grace-period=0", "--force", "--wait=false")


def test_the_cronworkflow_finds_drops_without_notifications(mug: dict[str, bytes]) -> None:
    """Without announcements at all: the CronWorkflow compares the bucket with the records every minute here."""
    before = s3.client().get_bucket_notification_configuration(Bucket=BUCKET)
    s3.client().put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration={})
    try:
        job = drop_folder("unheard", mug)
        wait_for(lambda: bool(result_marker("unheard")["mark"]), 600, "the mark")
        assert result_marker("unheard")["job_id"] == job
    finally:
        before.pop("ResponseMetadata")
        s3.client().put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration=before)


def test_a_version_whose_workflow_has_expired_is_not_done_again(mug: dict[str, bytes]) -> None:
    job = drop_folder("kept", mug)
    wait_for(lambda: bool(result_marker("kept")["mark"]), 600, "the mark")
    kubectl("-n", NAMESPACE, "delete", "workflow", f"sixview-{job}")
    assert drop_folder("kept", mug) == job  # the same bytes once more
    time.sleep(75)  # the clock has looked meanwhile
    assert job not in workflows()
    assert record(job)["status"] == "completed"


def test_nobody_else_can_announce_a_drop(cluster: None) -> None:
    import httpx

    from tests.cluster.client import address

    where = f"http://{address('sixview-cpu-drops-eventsource-svc', 12000)}/drop"
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert httpx.post(where, json={"Records": []}, headers=headers).status_code in (400, 401, 403, 500)


def test_jobs_of_several_versions_that_end_at_once_leave_the_newest_one_s_marker(cluster: None) -> None:
    """As their exit handlers do it, six at a time: first the record, then the result marker."""
    chance = random.Random(SEED)
    for trial in range(5):
        name = f"race {SEED}-{trial}"
        for number in range(6):
            put(f"{DROPS}{name}.zip", bytes([number]))
        versions = list(markers.drops_in(list(s3.versions(f"{DROPS}{name}.zip"))))
        stored = [one_record(drop, chance.choice(["completed", "failed"])) for drop in versions]
        chance.shuffle(stored)
        with ThreadPoolExecutor(6) as pool:
            list(
                pool.map(lambda one: (s3.write_json(*one), markers.write_result_marker(one[1]["drop"]["name"])), stored)
            )
        newest = next(content for _, content in stored if content["job_id"] == versions[-1].job)
        assert (result_marker(name)["job_id"], result_marker(name)["status"]) == (newest["job_id"], newest["status"])


def one_record(drop: markers.Drop, status: str) -> tuple[str, dict[str, Any]]:
    content = {"job_id": drop.job, "status": status, "error": {"code": "X"}, "drop": asdict(drop)}
    return f"{s3.RECORDS}{drop.job}.json", content
