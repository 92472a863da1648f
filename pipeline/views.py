"""A workflow, as people and programs see it as a job: pure functions over what the API server has."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from pipeline import ids
from pipeline.report import ENDED_BY, describe, model_of, outputs, step_nodes, step_of
from steps.contracts import MODELS
from steps.errors import Record

PREFIX = ids.PREFIX
FOLDER = "sixview.dev/folder"  # label of workflows whose template writes into folders that have their uid in the name
OWNER, SOURCE, ASKED = "sixview.dev/owner", "sixview.dev/source", "sixview.dev/cancel-requested"
CANCEL_SECONDS = 3600.0  # after which a cancellation that nobody confirmed is forgotten
ENDED = ("Succeeded", "Failed", "Error")
STATUSES = ("queued", "processing", "completed", "failed", "cancelled")
SHARES = {"validate": 5, "model": 70, "quality": 8, "preview": 12, "package": 5}  # of a job's time, in percent
STAGES = {"validate": "validation", "quality": "quality_metrics", "preview": "preview", "package": "packaging"}
PRIORITIES = {"low": -10, "normal": 0, "high": 10}

Workflow = dict[str, Any]
View = dict[str, Any]


def job_of(name: str) -> str:
    """A job's id: the workflow's name without its prefix."""
    return name.removeprefix(PREFIX)


def folder_of(workflow: Workflow) -> str:
    """Where a workflow's files lie, in results/ and elsewhere; see `storage`."""
    metadata = workflow["metadata"]
    name, uid = metadata["name"], metadata.get("uid", "")
    is_old = FOLDER not in (metadata.get("labels") or {}) and name.startswith(PREFIX)
    return job_of(name) if is_old or not uid else f"{job_of(name)}.{uid}"


def is_job(workflow: Workflow) -> bool:
    """Whether a workflow is a job: made from a template, and by a name that no other job's can be taken for."""
    return "workflowTemplateRef" in workflow.get("spec", {}) and workflow["metadata"]["name"].startswith(PREFIX)


def view(workflow: Workflow) -> View:
    """job_id, status, progress (0-100), current_model, stage, engine, model_type, created_at, updated_at, ended_at, error (a
    failure record or null), note, owner, source, priority, workflow (its name), folder (of its files in the bucket). Times are
    ISO 8601 in UTC."""
    steps = step_nodes(workflow)
    status = status_of(workflow, steps)
    asked = parameters(workflow)
    now = [node for node in steps if node["phase"] in ("Running", "Pending")] if status == "processing" else []
    record = failure(workflow) if status in ("failed", "cancelled") else None
    details = record["details"] if record else {}
    return {
        "job_id": job_of(workflow["metadata"]["name"]),
        "status": status,
        "progress": 100 if status == "completed" else progress(workflow, steps),
        "model_type": asked.get("model", ""),
        "current_model": next((model_of(n) for n in reversed(now) if model_of(n)), None),
        "stage": stage(now[-1]) if now else details.get("pipeline_stage") or None,
        "engine": _engine(steps) or details.get("engine") or None,
        "queue_position": None,
        "created_at": workflow["metadata"]["creationTimestamp"],
        "updated_at": _updated(workflow, steps),
        "ended_at": workflow.get("status", {}).get("finishedAt"),
        "error": record,
        "note": note(workflow) if status in ("queued", "processing") else None,
        "owner": workflow["metadata"].get("labels", {}).get(OWNER, ""),
        "source": workflow["metadata"].get("labels", {}).get(SOURCE, "argo"),
        "priority": asked.get("priority", "normal"),
        "workflow": workflow["metadata"]["name"],
        "folder": folder_of(workflow),
    }


def parameters(workflow: Workflow) -> dict[str, str]:
    """What the job was given, with the template's defaults where it says nothing."""
    stored = workflow.get("status", {}).get("storedWorkflowTemplateSpec", {}).get("arguments", {}).get("parameters", [])
    given = workflow.get("spec", {}).get("arguments", {}).get("parameters", [])
    return {item["name"]: str(item.get("value", "")) for item in [*stored, *given]}


def status_of(workflow: Workflow, steps: list[dict[str, Any]]) -> str:
    """One of STATUSES. A job that somebody stopped is cancelled from that moment on."""
    phase = workflow.get("status", {}).get("phase", "")
    if phase == "Succeeded":
        return "completed"
    if workflow.get("spec", {}).get("shutdown") and ENDED_BY not in workflow["metadata"].get("annotations", {}):
        return "cancelled"
    if phase in ENDED:
        return "failed"
    return "processing" if any(node["phase"] != "Pending" for node in steps) else "queued"


def failure(workflow: Workflow) -> Record:
    """The record that the exit handler left; before it has run, and where it never does, what the workflow itself tells."""
    nodes = workflow.get("status", {}).get("nodes") or {}
    told = [outputs(n).get("failure", "") for n in nodes.values() if n.get("templateName") == "report"]
    text = next((t for t in told if t), "") or describe(workflow, [], "Failed")["failure"]
    record: Record = json.loads(text)
    return record


def progress(workflow: Workflow, steps: list[dict[str, Any]]) -> int:
    """Percent of the job's expected time; the models that were asked for share what is not validate's or package's."""
    asked = parameters(workflow).get("model", MODELS[0])
    models = len(MODELS) if asked == "both" else 1
    best: dict[str, float] = {}
    for node in steps:
        best[node["templateName"]] = max(best.get(node["templateName"], 0.0), _done(node))
    return min(99, int(sum(done * _share(name, models) for name, done in best.items())))


def _share(template: str, models: int) -> float:
    step = template.removesuffix("-pod").rpartition("-")[2]
    share = SHARES["model"] if step in MODELS else SHARES.get(step, 0)
    return share / models if template.partition("-")[0] in MODELS else share


def _done(node: dict[str, Any]) -> float:
    if node["phase"] == "Succeeded":
        return 1.0
    done, _, total = str(node.get("progress", "0/1")).partition("/")
    return min(1.0, int(done) / max(1, int(total or 1))) if node["phase"] == "Running" else 0.0


def stage(node: dict[str, Any]) -> str:
    """Where a pod that still runs is: a model says more in its log and its record."""
    return STAGES.get(step_of(node), "inference")


def _engine(steps: list[dict[str, Any]]) -> str:
    used = [outputs(node).get("engine", "") for node in steps if step_of(node) in MODELS]
    return ", ".join(dict.fromkeys(e for e in used if e))


def _updated(workflow: Workflow, steps: list[dict[str, Any]]) -> str:
    times = [node.get(key) for node in steps for key in ("startedAt", "finishedAt")]
    ended = workflow.get("status", {}).get("finishedAt")
    return max(t for t in [workflow["metadata"]["creationTimestamp"], ended, *times] if t)


def note(workflow: Workflow) -> str | None:
    """That somebody wants the job cancelled, while it waits for the confirmation."""
    asked = workflow["metadata"].get("annotations", {}).get(ASKED)
    if not asked or (datetime.now(UTC) - datetime.fromisoformat(asked)).total_seconds() > CANCEL_SECONDS:
        return None
    return f"A cancellation was requested at {asked} and waits for its confirmation."


def with_queue(one: View, others: list[View]) -> View:
    """The same view with its place in the queue, from 1: by priority, then by age."""
    if one["status"] != "queued":
        return one

    def rank(job: View) -> tuple[int, str, str]:
        return (-PRIORITIES.get(job["priority"], 0), job["created_at"], job["job_id"])

    ahead = sum(rank(job) < rank(one) for job in others if job["status"] == "queued")
    return one | {"queue_position": ahead + 1}


def of_record(record: dict[str, Any]) -> View:
    """The view of a job whose workflow is gone."""
    known = {"progress": 100 if record["status"] == "completed" else 0, "current_model": None, "queue_position": None}
    known["folder"] = record["job_id"]
    return {**known, "note": None, **record, "updated_at": record["ended_at"] or record["created_at"]}
