"""Job ids, addresses and options of users, a job's status from its workflow, lists and retries."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.clients import s3
from pipeline.clients.kubernetes import FINISHED, Expired, Page
from pipeline.incluster import exit_handler, markers
from pipeline.jobs import ids, service, status
from steps.runtime.errors import ClusterUnavailable, JobExpired, JobFailed, JobNotFound, JobNotReady, ValidationFailed
from tests.pipeline import finished
from tests.pipeline.doubles import Bucket, bucket
from tests.pipeline.running import WORKFLOW, with_nodes

__all__ = ["bucket"]


# -- ids ----------------------------------------------------------------------------------------------------------------


def test_an_id_is_thirteen_characters_that_may_stand_in_every_name() -> None:
    job_ids = {ids.new_id() for _ in range(1000)}
    assert len(job_ids) == 1000
    assert all(re.fullmatch("[0-9a-z]{13}", job) and service.check_id(job) == job for job in job_ids)


def test_the_id_of_a_drop_follows_from_key_and_etag_alone() -> None:
    assert ids.id_from("drops/a.zip", "1") == ids.id_from("drops/a.zip", "1")
    assert len({ids.id_from(key, etag) for key in ("drops/a.zip", "drops/b.zip") for etag in ("1", "2")}) == 4
    assert ids.id_from("ab", "c") != ids.id_from("a", "bc")


def test_the_ids_of_drops_go_on_from_those_of_eight_characters() -> None:
    """Records of drops from earlier versions are found by their legacy id."""
    assert ids.legacy_id(ids.id_from("drops/a.zip", "1")) == "0076av1k"


@pytest.mark.parametrize("job", ["", "../x", "a/b", "A", "a" * 60, "a.b", "a%2fb", "-a", "a\n", "{{workflow.name}}"])
def test_invalid_ids_reach_neither_names_nor_keys(job: str) -> None:
    with pytest.raises(JobNotFound):
        service.check_id(job)


# -- input that others chose --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "s3://elsewhere/set",
        "s3://shared",
        "s3://shared/",
        "s3://shared/../private/set",
        "s3://sixview/inputs/abc12345",
        "s3://sixview/results/abc12345/result.zip",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "s3://shared/{{=sprig.env('X')}}",
        "s3://sixview//inputs/abc12345/set.zip",
        "s3://sixview///inputs//abc12345",
        "s3://sixview/results",
        "s3://sixview/inputs",
        "s3://sixview/./inputs/abc12345",
        "s3://sixview/x/../inputs/abc12345",
        "s3://sixview/%69nputs/abc12345",
        "s3://sixview/%2569nputs/abc12345",
        "s3://sixview/x%2F..%2Finputs/abc12345",
        "s3://sixview/%2Finputs/abc12345",
        "s3://sixview\\inputs\\abc12345",
        "s3://sixview/\\inputs/abc12345",
        "s3://sixview/%5Cinputs/abc12345",
        "S3://sixview/inputs/abc12345",
        "s3://shared/a\nb",
        "s3://shared/a\x00b",
        "s3://shared/\ud800",
        "s3://shared/.",
        "s3:///inputs/abc12345",
        "s3://sha red/x",
        "s3://shared/" + "x" * 5000,
        "s3:" + "/" * 5000,
    ],
)
def test_inputs_come_only_from_allowed_places(address: str) -> None:
    with pytest.raises(ValidationFailed):
        service.allowed_source(address, ("shared", "sixview"))


@pytest.mark.parametrize(
    ("address", "passed_on"),
    [
        ("s3://shared/sets/mug.zip", "s3://shared/sets/mug.zip"),
        ("S3://shared//sets///mug/", "s3://shared/sets/mug"),
        ("s3://shared/größe ä/100%25", "s3://shared/größe ä/100%25"),
        ("s3://sixview/sets/inputs/x", "s3://sixview/sets/inputs/x"),
        ("s3://shared/inputs/x", "s3://shared/inputs/x"),
    ],
)
def test_an_address_is_used_in_the_form_that_was_checked(address: str, passed_on: str) -> None:
    assert service.allowed_source(address, ("shared", "sixview")) == passed_on


# -- where a job's files lie --------------------------------------------------------------------------------------------


UID = "5c8efd93-79b1-4dbd-83e5-23b994bf684f"


def test_no_name_of_a_workflow_leads_into_another_job_s_folder() -> None:
    mine, theirs = copy.deepcopy(WORKFLOW), copy.deepcopy(WORKFLOW)
    for number, workflow in enumerate((mine, theirs)):
        workflow["metadata"]["uid"] = f"{number}{UID[1:]}"
        workflow["metadata"]["labels"][status.FOLDER] = "uid"
    theirs["metadata"]["name"] = "abc12345"
    assert status.of_workflow(mine)["folder"] == f"abc12345.0{UID[1:]}"
    assert status.of_workflow(theirs)["folder"] == f"abc12345.1{UID[1:]}"
    assert status.is_job(mine) and not status.is_job(theirs)
    del theirs["metadata"]["labels"]  # nor does one that takes its mark away
    assert status.folder_of(theirs) == f"abc12345.1{UID[1:]}"


def test_a_job_whose_labels_argo_has_lost_is_found_by_its_artifacts_and_gets_them_back() -> None:
    lost = copy.deepcopy(WORKFLOW)
    lost["metadata"]["uid"] = UID
    key = {"name": "mesh", "s3": {"key": f"jobs/abc12345.{UID}/nvdiffrec/mesh.tgz"}}
    lost["status"]["nodes"]["x"] = {"name": "x", "outputs": {"artifacts": [key]}}
    assert status.folder_of(lost) == f"abc12345.{UID}"
    assert status.labels_of_template(lost) == {"app.kubernetes.io/name": "sixview", status.FOLDER: "uid"}


def test_what_a_template_without_uids_made_is_found_where_it_lies() -> None:
    old = copy.deepcopy(WORKFLOW)
    old["metadata"]["uid"] = UID
    assert status.of_workflow(old)["folder"] == "abc12345"
    assert status.FOLDER not in status.labels_of_template(old)


def test_a_job_s_record_is_the_newest_of_its_own_workflow(bucket: Bucket) -> None:
    assert s3.find_record("abc12345") is None
    s3.write_json("records/abc12345.json", {"job_id": "abc12345", "status": "failed"})
    assert s3.find_record("abc12345") == {"job_id": "abc12345", "status": "failed", "folder": "abc12345"}
    key = f"records/abc12345.{UID}.json"
    s3.write_json(key, {"workflow": "sixview-abc12345", "status": "completed", "folder": "elsewhere"})
    s3.write_json(f"records/abc12345.1{UID[1:]}.json", {"workflow": "abc12345", "status": "failed"})
    s3.write_json("records/abc12345.other.json", {"status": "cancelled"})
    s3.write_json("records/abc123456.json", {"status": "cancelled"})
    newest = s3.find_record("abc12345")
    assert newest and (newest["status"], newest["folder"]) == ("completed", f"abc12345.{UID}")


def test_a_cancelled_workflow_takes_no_other_job_s_inputs_away(bucket: Bucket) -> None:
    stopped = copy.deepcopy(WORKFLOW)
    stopped["metadata"] |= {"name": "abc12345", "uid": UID, "labels": {status.FOLDER: "uid"}}
    stopped["spec"]["shutdown"] = "Stop"
    for key in ("inputs/abc12345/set.zip", "inputs/abc12345.x/set.zip", f"jobs/abc12345.{UID}/scene.tgz"):
        bucket.put_object(key, b"x")
    exit_handler.finalize(stopped)
    assert [key for key in bucket.objects if not key.startswith("records/")] == [
        "inputs/abc12345/set.zip",
        "inputs/abc12345.x/set.zip",
        f"results/abc12345.{UID}/failure.json",
    ]
    stopped["metadata"]["name"] = "sixview-abc12345"
    exit_handler.finalize(stopped)
    assert not [key for key in bucket.objects if key.startswith("inputs/")]


KNOWN = {"input": {}, "model": {"enum": ["reconviagen", "nvdiffrec"]}, "grid": {"value": "256"}}


@pytest.mark.parametrize(
    "options",
    [
        {"input": "s3://x/y"},
        {"modle": "x"},
        {"model": "x"},
        {"model": "both"},  # which this template does not offer
        {"seed": 1},
        {"grid": "{{=1}}"},
        {"grid": True},
        {"grid": []},
        {"grid": 9999},
        {"grid": 31},
        {"grid": "1..2"},
        {"grid": 64.5},
        pytest.param({"grid": 10**5000}, id="huge"),
        {"texture-size": 64, "texture_size": 128},
        [1],
        "x",
    ],
)
def test_options_are_those_of_the_template_and_nothing_else(options: Any) -> None:
    with pytest.raises(ValidationFailed):
        service.options_from(options, KNOWN)
    assert service.options_from({"model": "nvdiffrec", "grid": 64}, KNOWN) == {"model": "nvdiffrec", "grid": "64"}


def test_a_template_offers_no_more_than_a_job_may_have() -> None:
    parameters = {
        "model": {"enum": ["nvdiffrec", "newer"]},
        "grid": {"enum": ["64", "9999"]},
        "rig": {"enum": ["newer"]},
    }
    assert service.options_from({"model": "nvdiffrec", "grid": 64}, parameters)
    wrong: list[dict[str, Any]] = [{"model": "newer"}, {"grid": 128}, {"grid": 9999}, {"rig": "newer"}, {"seed": 1}]
    for options in wrong:
        with pytest.raises(ValidationFailed):
            service.options_from(options, parameters)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("drops/mug.zip", "mug"),
        ("drops/mug/_READY.json", "mug"),
        ("drops/a/b/_READY.json", "a/b"),
        ("drops/größe 1.zip", "größe 1"),
        ("drops/a/b.zip", ""),
        ("drops/mug/_DONE.json", ""),
        ("drops/mug/multi_views/front.png", ""),
        ("inputs/x/_READY.json", ""),
        ("drops/_READY.json", ""),
    ],
)
def test_one_marker_completes_a_drop(key: str, name: str) -> None:
    assert markers.drop_name(key) == name


# -- a workflow as a job ------------------------------------------------------------------------------------------------


def test_a_job_is_queued_until_a_pod_of_it_has_begun() -> None:
    assert status.of_workflow(with_nodes(phase="Pending"))["status"] == "queued"
    assert status.of_workflow(with_nodes(("validate", "Pending", "0/1")))["status"] == "queued"
    assert status.of_workflow(with_nodes(("validate", "Running", "0/1")))["status"] == "processing"


def test_progress_grows_from_0_to_100_across_both_models() -> None:
    pods = [("validate", "Succeeded", "1/1")]
    progresses = [status.of_workflow(with_nodes(*pods))["progress"]]
    for model in ("reconviagen", "nvdiffrec"):
        for progress in ("0/10", "5/10"):
            job_status = status.of_workflow(with_nodes(*pods, (f"{model}-pod", "Running", progress)))
            assert (job_status["current_model"], job_status["stage"]) == (model, "inference")
            progresses.append(job_status["progress"])
        pods += [(f"{model}-{part}", "Succeeded", "1/1") for part in ("pod", "quality", "preview")]
        progresses.append(status.of_workflow(with_nodes(*pods))["progress"])
    pods.append(("package", "Succeeded", "1/1"))
    progresses.append(status.of_workflow(with_nodes(*pods, phase="Succeeded"))["progress"])
    assert progresses == sorted(progresses)
    assert (progresses[0], progresses[-1]) == (5, 100)
    assert progresses[-2] > 90


def test_an_attempt_that_failed_is_no_progress() -> None:
    failed = status.of_workflow(with_nodes(("validate", "Succeeded", "1/1"), ("reconviagen-pod", "Failed", "9/10")))
    assert failed["progress"] == 5


def test_a_job_that_was_stopped_is_cancelled_at_once() -> None:
    stopped = with_nodes(("validate", "Running", "0/1"))
    stopped["spec"]["shutdown"] = "Stop"
    job_status = status.of_workflow(stopped)
    assert job_status["status"] == "cancelled"
    assert job_status["error"]["code"] == "CANCELLED"
    with pytest.raises(JobFailed, match="been cancelled"):
        service.result(job_status)


def test_a_cancellation_that_nobody_confirmed_is_forgotten_after_an_hour() -> None:
    wf = with_nodes(("validate", "Running", "0/1"))
    wf["metadata"]["annotations"] = {status.CANCEL_REQUESTED: "2026-01-01T00:00:00+00:00"}
    assert status.of_workflow(wf)["note"] is None
    wf["metadata"]["annotations"] = {status.CANCEL_REQUESTED: service.datetime.now(service.UTC).isoformat()}
    assert "waits for its confirmation" in status.of_workflow(wf)["note"]


def test_the_queue_goes_by_priority_and_then_by_age() -> None:
    def job(name: str, priority: str, created: str, status: str = "queued") -> dict[str, Any]:
        return {"job_id": name, "priority": priority, "created_at": created, "status": status}

    queue = [
        job("a", "normal", "1"),
        job("b", "normal", "2"),
        job("c", "high", "3"),
        job("d", "low", "0"),
        job("e", "high", "0", "failed"),
    ]
    queue_positions = {one["job_id"]: status.with_queue(one, queue).get("queue_position") for one in queue}
    assert queue_positions == {"c": 1, "a": 2, "b": 3, "d": 4, "e": None}


def test_what_has_not_ended_has_no_result_and_cannot_be_tried_again() -> None:
    job_status = status.of_workflow(with_nodes(("validate", "Running", "0/1")))
    with pytest.raises(JobNotReady) as caught:
        service.result(job_status)
    assert caught.value.details == {"progress": 0}
    assert service.may_cancel(job_status)
    for final_status in ("completed", "failed"):
        with pytest.raises(JobNotReady):
            service.may_cancel({**job_status, "status": final_status})


def test_a_manifest_refers_to_the_template_and_says_who_asked() -> None:
    manifest = service.manifest(
        "abc12345", "s3://b/x", {"model": "both", "texture_size": 64}, "sixview", owner="alice", source="http"
    )
    assert manifest["metadata"]["name"] == "sixview-abc12345"
    assert manifest["spec"]["workflowTemplateRef"] == {"name": "sixview"}
    assert {p["name"]: p["value"] for p in manifest["spec"]["arguments"]["parameters"]} == {
        "input": "s3://b/x",
        "model": "both",
        "texture-size": "64",
    }
    assert manifest["metadata"]["labels"]["sixview.dev/owner"] == "alice"


def test_a_suspended_job_says_so_and_how_it_goes_on() -> None:
    suspended = with_nodes(("validate", "Running", "0/1"))
    suspended["spec"]["suspend"] = True
    assert "argo resume sixview-abc12345" in status.of_workflow(suspended)["note"]


def test_a_job_of_which_only_the_record_is_left_has_expired(monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"job_id": "abc12345", "status": "completed", "created_at": "1", "ended_at": "2", "error": None}
    monkeypatch.setattr(service.s3, "head", lambda key: None)  # the bucket's lifecycle has been there
    with pytest.raises(JobExpired):
        service.result(status.of_record(record))


# -- listings -----------------------------------------------------------------------------------------------------------


class Cluster:
    """A cluster client that records which workflows are read in full. expired: number of lists that raise Expired."""

    namespace = "sixview"

    def __init__(self, *workflows: dict[str, Any], expired: int = 0) -> None:
        self.workflows = {one["metadata"]["name"]: one for one in workflows}
        self.read_in_full: list[str] = []
        self.expired = expired

    def get(self, name: str) -> dict[str, Any] | None:
        self.read_in_full.append(name)
        return self.workflows.get(name)

    def pages(self, selector: str, full: bool) -> Iterator[Page]:
        for name, one in self.workflows.items():
            is_finished = one["metadata"].get("labels", {}).get("workflows.argoproj.io/completed") == "true"
            if is_finished == (selector == FINISHED):
                self.read_in_full += [name] if full else []
                yield Page([one if full else finished.head(one)], "1")
        if self.expired:
            self.expired -= 1
            raise Expired("The provided continue parameter is too old")


def made(job: str, created: str, recorded: bool) -> dict[str, Any]:
    wf = finished.workflow(f"sixview-{job}")
    wf["metadata"]["creationTimestamp"] = created
    return finished.with_record(wf) if recorded else wf


def test_a_list_reads_in_full_only_the_jobs_that_it_returns() -> None:
    old = [made(f"old{i:05d}", "2025-01-01T00:00:00Z", recorded=False) for i in range(20)]
    new = [made(f"new{i:05d}", f"2026-01-01T00:00:0{i}Z", recorded=i != 1) for i in range(3)]
    cluster = Cluster(*old, *new, with_nodes(phase="Pending"))
    jobs = service.listing(cluster, 4)  # type: ignore[arg-type]
    assert [job_status["job_id"] for job_status in jobs] == ["new00002", "new00001", "new00000", "abc12345"]
    assert [job_status["queue_position"] for job_status in jobs] == [None, None, None, 1]
    assert cluster.read_in_full == ["sixview-abc12345", "sixview-new00001"]


def test_a_queue_position_reads_no_finished_jobs() -> None:
    cluster = Cluster(
        *(made(f"old{i:05d}", "2025-01-01T00:00:00Z", True) for i in range(9)), with_nodes(phase="Pending")
    )
    assert service.find(cluster, "abc12345")["queue_position"] == 1  # type: ignore[arg-type]
    assert set(cluster.read_in_full) == {"sixview-abc12345"}


def test_a_list_that_expires_is_restarted_a_few_times() -> None:
    assert len(service.listing(Cluster(made("done1111", "2026-01-01T00:00:00Z", True), expired=2))) == 1  # type: ignore[arg-type]
    with pytest.raises(ClusterUnavailable, match="expired"):
        service.listing(Cluster(expired=9))  # type: ignore[arg-type]
