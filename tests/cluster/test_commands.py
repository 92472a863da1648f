"""The commands of `sixview` against the cluster, as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.clients import s3
from pipeline.jobs import download
from tests.cluster.client import (
    ENDED,
    SMALL,
    address,
    argo,
    describe_nodes,
    finished,
    folder,
    job,
    keys_of,
    labels_of,
    listed,
    read_key,
    submit,
    workflow,
    working_pod,
)
from tests.cluster.node import kubectl, wait_for
from tests.cluster.places import KUBECONFIG, NAMESPACE
from tests.cluster.web import workflow_of

TEMPLATE = ("--template", "sixview-cpu")
OPTIONS = [word for name, value in SMALL.items() for word in ("-p", f"{name}={value}")]


def sixview(*words: str, given: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command. The environment says where the cluster and the store are."""
    env = {
        **os.environ,
        "KUBECONFIG": os.environ.get("KUBECONFIG") or str(KUBECONFIG),
        "SIXVIEW_NAMESPACE": NAMESPACE,
        **environment,
    }
    done = subprocess.run(
        [str(Path(sys.executable).with_name("sixview")), *words],
        capture_output=True,
        text=True,
        input=given,
        env=env,
        timeout=900,
    )
    assert "Traceback" not in done.stderr + done.stdout
    return done


def sixview_json(*words: str, code: int = 0, **environment: str) -> Any:
    """What --json prints."""
    done = sixview(*words, "--json", **environment)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def mug(inputs: str, sample_set: Callable[..., Path]) -> Path:
    return sample_set("mug")


@pytest.fixture(scope="module")
def done(mug: Path) -> dict[str, Any]:
    """A folder, submitted and waited for."""
    return dict(sixview_json("submit", str(mug), *TEMPLATE, *OPTIONS, "--wait"))


def test_a_folder_is_checked_uploaded_and_done(done: dict[str, Any]) -> None:
    assert (done["status"], done["progress"], done["engine"], done["source"]) == ("completed", 100, "fusion", "cli")
    assert {o["Key"].rpartition("/")[2] for o in s3.listed(f"{s3.INPUTS}{done['job_id']}/")} >= {
        "front.png",
        "cameras.json",
    }


def test_every_way_in_gives_the_same_job(done: dict[str, Any], mug: Path) -> None:
    """The CLI, and `argo submit` by hand: one template, the same files, the same labels."""
    name = submit("sixview-cpu")
    by_hand = finished(name)
    assert (
        by_hand["spec"]["workflowTemplateRef"] == workflow(workflow_of(done["job_id"]))["spec"]["workflowTemplateRef"]
    )
    assert set(keys_of(name)) == set(keys_of(workflow_of(done["job_id"])))
    mine, theirs = labels_of(workflow(workflow_of(done["job_id"]))), labels_of(by_hand)
    assert mine == {**theirs, "source": "cli"}
    assert {name, workflow_of(done["job_id"])} <= listed("app.kubernetes.io/name=sixview")
    assert sixview_json("status", job(name))["status"] == "completed"
    assert (s3.find_record(job(name)) or {})["source"] == "argo"


def test_no_name_of_a_workflow_leads_into_another_job_s_folder(inputs: str) -> None:
    """Both jobs fail in validate; their failure records are in different folders."""
    theirs = f"named{time.time_ns() % 10**8:08d}"
    names = (f"sixview-{theirs}", theirs)
    for name in names:
        argo("submit", "--from", "workflowtemplate/sixview-cpu", "--name", name, "-p", f"input={inputs}/none")
    folders = [folder(name) for name in names if finished(name)]
    assert len({job_folder.partition(".")[0] for job_folder in folders}) == 1
    assert len(set(folders)) == 2
    assert all(json.loads(read_key(name, "failure.json"))["code"] for name in names)
    assert sixview_json("status", theirs)["folder"] == folders[0]
    for name in names:
        kubectl("-n", NAMESPACE, "delete", "workflow", name)
    assert sixview_json("status", theirs)["folder"] == folders[0]  # by the record of its own workflow
    assert not list(s3.listed(f"results/{theirs}/"))


def by_command() -> set[str]:
    """Workflows with the source `cli`: the cluster also creates others, such as the CronWorkflow's."""
    return listed("sixview.dev/source=cli")


def test_a_bad_set_costs_a_second_and_no_workflow(mug: Path, tmp_path: Path) -> None:
    shutil.copytree(mug, tmp_path / "set")
    (tmp_path / "set" / "multi_views" / "front.png").unlink()
    before = by_command()
    done = sixview("submit", str(tmp_path / "set"), *TEMPLATE)
    assert (done.returncode, done.stderr.split()[0]) == (10, "INVALID_FILE_COUNT")
    assert by_command() <= before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("submit", "/nowhere"), "VALIDATION_FAILED"),
        (("submit", "s3://sixview/nothing/here"), "There is nothing"),
        (("submit", "http://example.com/x"), "VALIDATION_FAILED"),
        (("submit", "s3://sixview/inputs/mug", "-p", "gird=1"), "no option"),
        (("submit", "s3://sixview/inputs/mug", "--template", "nothing"), "no WorkflowTemplate"),
        (("status", "nothing0"), "JOB_NOT_FOUND"),
        (("status", "../x"), "JOB_NOT_FOUND"),
        (("logs", "nothing0"), "JOB_NOT_FOUND"),
        (("cancel", "nothing0", "--yes"), "JOB_NOT_FOUND"),
        (("retry", "nothing0"), "JOB_NOT_FOUND"),
        (("fetch", "nothing0", "--out", "x"), "JOB_NOT_FOUND"),
    ],
)
def test_commands_that_cannot_succeed_explain_the_error(inputs: str, words: tuple[str, ...], expected: str) -> None:
    done = sixview(*words)
    assert done.returncode != 0
    assert expected in done.stderr
    assert "What to do" in done.stderr


def test_an_unreachable_cluster_or_store_is_reported(inputs: str, tmp_path: Path) -> None:
    for words, environment, code in (
        (("status", "abc12345"), {"KUBECONFIG": str(tmp_path / "none")}, "CLUSTER_UNAVAILABLE"),
        (("status", "abc12345"), {"S3_ENDPOINT": "http://127.0.0.1:9"}, "STORAGE_UNAVAILABLE"),
    ):
        done = sixview(*words, **environment)
        assert (done.returncode, done.stderr.split()[0]) == (40, code)


def test_a_list_a_status_and_logs(done: dict[str, Any]) -> None:
    listed = {job_status["job_id"]: job_status for job_status in sixview_json("list", "--limit", "500")}
    assert listed[done["job_id"]]["status"] == "completed"
    assert done["job_id"] in sixview("list").stdout
    assert "reconviagen (fusion)" in sixview("status", done["job_id"]).stdout
    logs = sixview("logs", done["job_id"]).stdout
    assert "(validate)" in logs
    assert "(package)" in logs
    report = sixview("logs", done["job_id"], "--step", "report").stdout
    assert '"status": "completed"' in report
    assert "has no step" in sixview("logs", done["job_id"], "--step", "nothing").stderr


def test_a_download_is_verified_and_resumed(done: dict[str, Any], tmp_path: Path) -> None:
    files = sixview_json("fetch", done["job_id"], "--out", str(tmp_path))
    result = Path(files["result"]).read_bytes()
    assert zipfile.is_zipfile(files["result"])
    assert Path(files["report"]).read_text().startswith("<!doctype html>")
    tag = s3.head(s3.key_of(done["folder"], "result.zip"))["ETag"].strip('"')[:12]  # type: ignore[index]
    part = tmp_path / f".result.{done['job_id']}.{tag}.part"
    part.write_bytes(result[: len(result) // 2])  # as a fetch that was killed leaves it
    Path(files["result"]).unlink()
    sixview_json("fetch", done["job_id"], "--out", str(tmp_path))
    assert Path(files["result"]).read_bytes() == result
    part.write_bytes(b"x" + result[1 : len(result) // 2])  # damaged on the way
    broken = sixview("fetch", done["job_id"], "--out", str(tmp_path))
    assert (broken.returncode, "damaged" in broken.stderr) == (40, True)
    assert not part.exists()
    with zipfile.ZipFile(tmp_path / "result.zip") as archive:
        assert archive.testzip() is None
    download.verify(tmp_path / "result.zip")


def test_a_job_is_watched_asked_about_and_cancelled(mug: Path) -> None:
    sent = sixview_json("submit", str(mug), *TEMPLATE, *OPTIONS, "-p", "seed=7002", "--priority", "high")
    name = workflow_of(sent["job_id"])
    assert workflow(name)["spec"]["priority"] == 10
    working_pod(name, "reconviagen-pod")
    assert sixview("cancel", sent["job_id"], given="n\n").returncode == 1
    assert sixview_json("status", sent["job_id"])["status"] == "processing"
    live = sixview("logs", sent["job_id"], "--step", "reconviagen")
    assert "(reconviagen)" in live.stdout
    assert sixview("cancel", sent["job_id"], given="y\n").returncode == 0
    assert "cancelled already" in sixview("cancel", sent["job_id"], "--yes").stdout
    following = sixview("status", sent["job_id"], "--watch")
    assert (following.returncode, "CANCELLED" in following.stderr) == (40, True)
    assert "JOB_FAILED" in sixview("fetch", sent["job_id"], "--out", "x").stderr
    assert "JOB_EXPIRED" in sixview("retry", sent["job_id"]).stderr
    refused = sixview(
        "cancel", submit("sixview-cpu", psnr_threshold=99, source="s3://sixview/inputs/FILE_TOO_LARGE"), "--yes"
    )
    assert refused.returncode in (0, 40)


def test_a_job_that_has_ended_cannot_be_cancelled(done: dict[str, Any]) -> None:
    refused = sixview("cancel", done["job_id"], "--yes")
    assert (refused.returncode, refused.stderr.split()[0]) == (40, "JOB_NOT_READY")


def test_a_retry_repeats_the_failed_step_and_those_after_it(mug: Path, tmp_path: Path) -> None:
    """The gate is missed; with the threshold put right in the workflow itself, only what failed and what follows runs again."""
    failed = sixview_json("submit", str(mug), *TEMPLATE, *OPTIONS, "-p", "psnr-threshold=99", "--wait", code=12)
    name = workflow_of(failed["job_id"])
    first = finished(name)["status"]
    nodes_before = first["nodes"]
    finished_at = {
        n["templateName"]: n["finishedAt"]
        for n in nodes_before.values()
        if n["type"] == "Pod" and n["phase"] == "Succeeded"
    }
    again = sixview("retry", failed["job_id"])
    assert again.returncode == 0, again.stderr
    assert workflow(name)["status"]["phase"] not in ENDED
    wf = finished(name)
    nodes = {n["templateName"]: n for n in wf["status"]["nodes"].values() if n["type"] == "Pod"}
    assert nodes["reconviagen-pod"]["finishedAt"] == finished_at["reconviagen-pod"]
    assert nodes["validate"]["finishedAt"] == finished_at["validate"]
    ended_at, again_at = (
        datetime.fromisoformat(text) for text in (first["finishedAt"], nodes["reconviagen-quality"]["startedAt"])
    )
    assert (again_at - ended_at).total_seconds() >= 30, "Argo's controller may still kill the pod of this name"
    assert nodes["package"]["startedAt"] > finished_at["package"]
    error = sixview_json("status", failed["job_id"])["error"]
    assert error["code"] == "QUALITY_THRESHOLD_FAILED", describe_nodes(wf)


def test_the_doctor_finds_everything_in_order_and_what_is_not(inputs: str) -> None:
    well = sixview("doctor", *TEMPLATE)
    assert well.returncode == 0, well.stdout
    for what in (
        "the cluster answers",
        "WorkflowTemplate sixview-cpu",
        "localhost/argo:1",
        "1 GPUs on 1 nodes",
        "the bucket sixview answers",
    ):
        assert what in well.stdout
    ill = sixview("doctor", "--template", "nothing", S3_ENDPOINT="http://127.0.0.1:9")
    assert ill.returncode == 1
    assert "helm install" in ill.stdout
    assert "Set S3_ENDPOINT" in ill.stdout
    assert "sixview bucket setup" in sixview("doctor", *TEMPLATE, S3_BUCKET="nobody-s").stdout


def test_an_argo_server_is_enough_where_there_is_no_kubeconfig(inputs: str, mug: Path) -> None:
    kubectl("-n", "argo", "create", "serviceaccount", "cli", check=False)
    kubectl(
        "create", "clusterrolebinding", "cli", "--clusterrole=cluster-admin", "--serviceaccount=argo:cli", check=False
    )
    token = kubectl("-n", "argo", "create", "token", "cli").stdout.strip()
    server = ("--argo-server", f"https://{address('argo-server', 2746, 'argo')}", "--insecure-skip-verify")
    reach = {"ARGO_TOKEN": token, "KUBECONFIG": "/nowhere"}
    sent = sixview_json("submit", str(mug), *TEMPLATE, *OPTIONS, "-p", "seed=7002", *server, **reach)
    name = workflow_of(sent["job_id"])
    working_pod(name, "reconviagen-pod")
    assert sixview_json("status", sent["job_id"], *server, **reach)["status"] == "processing"
    assert sent["job_id"] in [job_status["job_id"] for job_status in sixview_json("list", *server, **reach)]
    assert "(validate)" in sixview("logs", sent["job_id"], *server, **reach).stdout
    assert sixview("cancel", sent["job_id"], "--yes", *server, **reach).returncode == 0
    wait_for(lambda: sixview_json("status", sent["job_id"], *server, **reach)["status"] == "cancelled", 60, "the end")
    for words in (("status", "nothing0"), ("list",)):
        done = sixview(*words, *server, KUBECONFIG="/nowhere", ARGO_TOKEN="wrong")
        assert (done.returncode, done.stderr.split()[0]) == (40, "CLUSTER_UNAVAILABLE")


def test_a_bucket_is_set_up_and_what_others_have_set_stays(cluster: None) -> None:
    store = s3.client()
    name = "another"
    rule = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "theirs/"}, "Expiration": {"Days": 3}}
    for _ in range(2):
        assert sixview("bucket", "setup", "--bucket", name, "--results-days", "5", "--logs-days", "0").returncode == 0
        rules = {r["ID"]: r for r in store.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]}
        assert rules["sixview-results"]["Expiration"]["Days"] == 5
        assert "sixview-logs" not in rules
        store.put_bucket_lifecycle_configuration(
            Bucket=name,
            LifecycleConfiguration={"Rules": [*rules.values(), rule]}
            if "theirs" not in rules
            else {"Rules": list(rules.values())},
        )
    assert "theirs" in rules
    assert store.get_bucket_versioning(Bucket=name)["Status"] == "Enabled"


def test_completion_knows_the_commands() -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "_SIXVIEW_COMPLETE" in sixview("completion", shell).stdout
    offered = sixview(COMP_WORDS="sixview su", COMP_CWORD="1", _SIXVIEW_COMPLETE="bash_complete")
    assert offered.stdout.strip() == "plain,submit"
