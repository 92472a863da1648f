"""A workflow, as people and programs see it as a job: pure functions over what the API server has."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pipeline.clients import reading, workflows
from pipeline.clients.reading import EPOCH, mapping, parse_time, text
from pipeline.clients.workflows import NAME_PREFIX
from pipeline.jobs.failure import ENDED_BY, describe
from pipeline.jobs.nodes import MOST_WARNINGS, model_of, outputs, step_nodes, step_of, tasks_phase, warnings_of
from steps.runtime.contract import MODELS
from steps.runtime.errors import Record

FOLDER = "sixview.dev/folder"  # label of workflows whose template writes into folders that have their uid in the name
OWNER, SOURCE, ASKED = "sixview.dev/owner", "sixview.dev/source", "sixview.dev/cancel-requested"
RECORD = "sixview.dev/record"  # annotation: the record that the exit handler left, so that nobody need read the workflow again
COMPLETED, PHASE = "workflows.argoproj.io/completed", "workflows.argoproj.io/phase"  # the controller's labels
CANCEL_SECONDS = 3600.0  # after which a cancellation that nobody confirmed is forgotten
WAITING = "sixview.dev/waiting"  # annotation: why the job waits, see `stuck_pods`
UNTAKEN = "argo"  # its step where Argo's controller itself has not begun with the job
ENDED = ("Succeeded", "Failed", "Error")
STATUSES = ("queued", "processing", "completed", "failed", "cancelled")
SHARES = {"validate": 5, "model": 70, "quality": 8, "preview": 12, "package": 5}  # of a job's time, in percent
STAGES = {"validate": "validation", "quality": "quality_metrics", "preview": "preview", "package": "packaging"}
SHORT = 100  # characters of a word in a view
PRIORITIES = {"low": -10, "normal": 0, "high": 10}

Workflow = dict[str, Any]
View = dict[str, Any]


def job_of(name: str) -> str:
    """A job's id: the workflow's name without its prefix."""
    return name.removeprefix(NAME_PREFIX)


def folder_of(workflow: Workflow) -> str:
    """Where a workflow's files lie, in results/ and elsewhere; see `clients.s3`."""
    metadata = workflows.read(workflow)["metadata"]
    name, uid = metadata["name"], metadata["uid"]
    is_old = FOLDER not in metadata["labels"] and name.startswith(NAME_PREFIX)
    return job_of(name) if is_old or not uid else f"{job_of(name)}.{uid}"


def is_job(workflow: Workflow) -> bool:
    """Whether a workflow is a job: made from a template, and by a name that no other job's can be taken for."""
    of_template = "workflowTemplateRef" in mapping(mapping(workflow).get("spec")) or recorded(workflow) is not None
    return of_template and workflows.read(workflow)["metadata"]["name"].startswith(NAME_PREFIX)


def view(workflow: Workflow) -> View:
    """job_id, status, progress (0-100), current_model, stage, engine, model_type, created_at, updated_at, ended_at, error (a
    failure record or null), note, warnings (sentences), owner, source, priority, workflow (its name), folder (of its files in the
    bucket). Times are ISO 8601 in UTC. Never raises, whatever stands in the workflow: what cannot be read is told in note. Of one
    that has ended its metadata is enough, see `recorded`."""
    workflow = workflows.read(workflow)
    return recorded(workflow) or _view(workflow)


def _view(workflow: workflows.Workflow) -> View:
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
        "model_type": text(asked.get("model"), SHORT),
        "current_model": next((model_of(n) for n in reversed(now) if model_of(n)), None),
        "stage": stage(now[-1]) if now else details.get("pipeline_stage") or None,
        "engine": _engine(steps) or details.get("engine") or None,
        "queue_position": None,
        "created_at": workflow["metadata"]["creationTimestamp"],
        "updated_at": _updated(workflow, steps),
        "ended_at": workflow["status"]["finishedAt"] or None,
        "error": record,
        "note": note(workflow, status in ("queued", "processing")),
        "warnings": warnings_of(steps),
        "owner": workflow["metadata"]["labels"].get(OWNER, ""),
        "source": workflow["metadata"]["labels"].get(SOURCE, "argo"),
        "priority": text(asked.get("priority", "normal"), SHORT),
        "workflow": workflow["metadata"]["name"],
        "folder": folder_of(workflow),
    }


def recorded(workflow: Workflow) -> View | None:
    """The view of a workflow that has ended, by the record that its exit handler left in its metadata. None where it left none,
    or one that is not of this workflow's last end."""
    metadata = workflows.read(workflow)["metadata"]
    labels, status = metadata["labels"], workflows.read(workflow)["status"]
    if labels.get(COMPLETED) != "true" or RECORD not in metadata["annotations"]:
        return None
    record = mapping(reading.json_of(metadata["annotations"][RECORD]))
    began, ended = parse_time(status["startedAt"]), parse_time(record.get("ended_at"))
    of_another = (
        record.get("job_id") != job_of(metadata["name"]) or ended is None or (began is not None and ended < began)
    )
    if of_another or (record.get("status") == "completed") != (labels.get(PHASE) == "Succeeded"):
        return None
    found = of_record(record)
    told = {"owner": labels.get(OWNER, ""), "source": labels.get(SOURCE, "argo")}
    told |= {"workflow": metadata["name"], "folder": folder_of(workflow)}
    return found | told | {"created_at": metadata["creationTimestamp"], "note": note(workflow, False) or found["note"]}


def parameters(workflow: Workflow) -> dict[str, str]:
    """What the job was given, with the template's defaults where it says nothing."""
    workflow = workflows.read(workflow)
    stored = workflow["status"]["storedWorkflowTemplateSpec"]["arguments"]["parameters"]
    given = workflow["spec"]["arguments"]["parameters"]
    return {item["name"]: text(item.get("value")) for item in [*stored, *given]}


def status_of(workflow: Workflow, steps: list[dict[str, Any]]) -> str:
    """One of STATUSES. A job that somebody stopped is cancelled from that moment on."""
    phase = workflow["status"]["phase"]
    if phase == "Succeeded" or (phase in ENDED and tasks_phase(workflow) == "Succeeded"):
        return "completed"  # of the latter only the exit handler has failed
    if workflow["spec"]["shutdown"] and ENDED_BY not in workflow["metadata"]["annotations"]:
        return "cancelled"
    if phase in ENDED:
        return "failed"
    return "processing" if any(node["phase"] != "Pending" for node in steps) else "queued"


def failure(workflow: Workflow) -> Record:
    """The record that the exit handler left; before it has run, and where it never does, what the workflow itself tells."""
    nodes = workflow["status"]["nodes"].values()
    told = [outputs(n)["failure"] for n in nodes if n["templateName"] == "report" and outputs(n).get("failure")]
    found = reading.failure(told[0] if told else describe(workflow, [], "Failed")["failure"])
    return found or reading.unreadable("The failure record that the exit handler left")


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
    done, _, total = node["progress"].partition("/")
    return min(1.0, reading.integer(done) / max(1, reading.integer(total, 1))) if node["phase"] == "Running" else 0.0


def stage(node: dict[str, Any]) -> str:
    """Where a pod that still runs is: a model says more in its log and its record."""
    return STAGES.get(step_of(node), "inference")


def _engine(steps: list[dict[str, Any]]) -> str:
    used = [text(outputs(node).get("engine"), SHORT) for node in steps if step_of(node) in MODELS]
    return ", ".join(dict.fromkeys(e for e in used if e))


def _updated(workflow: Workflow, steps: list[dict[str, Any]]) -> str:
    times = [node[key] for node in steps for key in ("startedAt", "finishedAt")]
    known = [workflow["metadata"]["creationTimestamp"], workflow["status"]["finishedAt"], *times]
    return max((t for t in known if parse_time(t)), key=lambda t: parse_time(t) or datetime.min, default=EPOCH)


def note(workflow: Workflow, unfinished: bool = True) -> str | None:
    """Why an unfinished job waits, that somebody wants it cancelled; and what of a workflow cannot be read."""
    workflow = workflows.read(workflow)
    found = [unread(workflow)]
    if unfinished:
        found += [suspended(workflow), waiting(workflow), cancellation(workflow)]
    return " ".join(filter(None, found)) or None


def unread(workflow: Workflow) -> str:
    """What of a workflow cannot be read; empty where all can."""
    asked = workflow["metadata"]["annotations"].get(ASKED, "")
    odd = [f"the annotation {ASKED}={text(asked, SHORT)!r} is no time"] if asked and parse_time(asked) is None else []
    told = [*workflows.read(workflow).parse_errors, *odd]
    return f"Of the workflow not everything can be read: {'; '.join(told)}." if told else ""


def suspended(workflow: Workflow) -> str:
    """That somebody has told Argo to begin no more of the job."""
    if workflow["spec"].get("suspend") is not True:
        return ""
    return f"The job is suspended: `argo resume {workflow['metadata']['name']}` lets it go on."


def waiting(workflow: Workflow) -> str:
    """Why a job does not go on, as the reconciler found out; empty where it does."""
    workflow = workflows.read(workflow)
    told = mapping(reading.json_of(workflow["metadata"]["annotations"].get(WAITING)))
    if told.get("step") == UNTAKEN and workflow["status"]["phase"]:
        return ""  # it has begun since
    code, reason, advice, since, ends = (text(told.get(k)) for k in ("code", "reason", "advice", "since", "ends"))
    if not reason:
        return ""
    if not code:
        return f"{reason} Since {since}."
    return " ".join(filter(None, (reason, advice, f"The job ends as {code} at {ends} unless this changes.")))


def cancellation(workflow: Workflow) -> str:
    """That somebody wants the job cancelled, while it waits for the confirmation."""
    asked = workflow["metadata"]["annotations"].get(ASKED, "")
    at = parse_time(asked)
    if at is None or (datetime.now(UTC) - at).total_seconds() > CANCEL_SECONDS:
        return ""
    return f"A cancellation was requested at {text(asked, SHORT)} and waits for its confirmation."


def with_queue(one: View, others: list[View]) -> View:
    """The same view with its place in the queue, from 1: by priority, then by age."""
    if one["status"] != "queued":
        return one

    def rank(job: View) -> tuple[int, str, str]:
        return (-PRIORITIES.get(job["priority"], 0), job["created_at"], job["job_id"])

    ahead = sum(rank(job) < rank(one) for job in others if job["status"] == "queued")
    return one | {"queue_position": ahead + 1}


def of_record(given: Any) -> View:
    """The view of a job by the record that is left of it. What is wrong with the record is told in its error."""
    record = mapping(given)
    status = record.get("status") if record.get("status") in ("completed", "failed", "cancelled") else "failed"
    error = None if status == "completed" else reading.failure(record.get("error"))
    if status != "completed" and error is None:
        error = reading.unreadable("The record of the job")
    created, ended = (reading.time_text(record.get(name)) for name in ("created_at", "ended_at"))
    extra = {text(name, SHORT): text(value) for name, value in record.items() if isinstance(value, str)}
    return {
        **extra,
        "job_id": text(record.get("job_id"), SHORT),
        "status": status,
        "progress": 100 if status == "completed" else 0,
        "model_type": text(record.get("model_type"), SHORT),
        "current_model": None,
        "stage": text(record.get("stage"), SHORT) or None,
        "engine": text(record.get("engine"), SHORT) or None,
        "queue_position": None,
        "created_at": created or ended or EPOCH,
        "updated_at": ended or created or EPOCH,
        "ended_at": ended or None,
        "error": error,
        "note": None,
        "warnings": reading.texts(record.get("warnings"), MOST_WARNINGS),
        "owner": text(record.get("owner"), SHORT),
        "source": text(record.get("source"), SHORT),
        "priority": text(record.get("priority"), SHORT) or "normal",
        "workflow": text(record.get("workflow"), SHORT),
        "folder": text(record.get("folder"), SHORT) or text(record.get("job_id"), SHORT),
    }
