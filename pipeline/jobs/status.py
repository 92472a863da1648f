"""A job's status from its Workflow or its record: pure functions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pipeline.clients import reading, workflows
from pipeline.clients.reading import EPOCH, mapping, parse_time, text
from pipeline.clients.workflows import NAME_PREFIX
from pipeline.jobs import gpu_time
from pipeline.jobs.failure import ENDED_BY, describe
from pipeline.jobs.nodes import MAX_WARNINGS, model_of, outputs, step_nodes, step_of, tasks_phase, warnings_of
from steps.runtime.contract import MODELS
from steps.runtime.errors import Record

FOLDER = "sixview.dev/folder"  # label of workflows whose folder in the bucket has their uid in its name
OWNER, SOURCE, CANCEL_REQUESTED = "sixview.dev/owner", "sixview.dev/source", "sixview.dev/cancel-requested"
RECORD = "sixview.dev/record"  # annotation by the exit handler: the record, so that lists need the metadata alone
COMPLETED, PHASE = "workflows.argoproj.io/completed", "workflows.argoproj.io/phase"  # labels by Argo's controller
CANCEL_SECONDS = 3600.0  # lifetime of an unconfirmed cancellation request
WAITING = "sixview.dev/waiting"  # annotation by the reconciler: why the job waits, see `stuck_pods`
NOT_STARTED = "argo"  # `step` in that annotation where Argo's controller has not started the workflow
ENDED = ("Succeeded", "Failed", "Error")
STATUSES = ("queued", "processing", "completed", "failed", "cancelled")
PROGRESS_WEIGHTS = {
    "validate": 5,
    "model": 70,
    "quality": 8,
    "preview": 12,
    "package": 5,
}  # of a job's time, in percent
STAGES = {"validate": "validation", "quality": "quality_metrics", "preview": "preview", "package": "packaging"}
MAX_WORD = 100  # characters of a name in a status
PRIORITIES = {"low": -10, "normal": 0, "high": 10}

Workflow = dict[str, Any]
JobStatus = dict[str, Any]


def job_of(name: str) -> str:
    """Job id of a workflow name."""
    return name.removeprefix(NAME_PREFIX)


def folder_of(workflow: Workflow) -> str:
    """A workflow's folder below results/, jobs/ and the other prefixes; see `clients.s3`."""
    metadata = workflows.read(workflow)["metadata"]
    name, uid = metadata["name"], metadata["uid"]
    is_old = FOLDER not in metadata["labels"] and name.startswith(NAME_PREFIX) and not _keys_have_uid(workflow)
    return job_of(name) if is_old or not uid else f"{job_of(name)}.{uid}"


def _keys_have_uid(workflow: Workflow) -> bool:
    """Whether an artifact's key has the workflow's uid. Argo has been seen to lose the labels that a template gives."""
    workflow = workflows.read(workflow)
    return any(
        f".{workflow['metadata']['uid']}/" in str(n.get("outputs")) for n in workflow["status"]["nodes"].values()
    )


def labels_of_template(workflow: Workflow) -> dict[str, str]:
    """The labels that the template gives to the workflow, and by which it is found."""
    has_uid = folder_of(workflow) != job_of(workflows.read(workflow)["metadata"]["name"])
    return {"app.kubernetes.io/name": "sixview"} | ({FOLDER: "uid"} if has_uid else {})


def is_job(workflow: Workflow) -> bool:
    """Whether a workflow is a job: created from a template, and with the name prefix: otherwise two names could give one id."""
    of_template = "workflowTemplateRef" in mapping(mapping(workflow).get("spec")) or of_annotation(workflow) is not None
    return of_template and workflows.read(workflow)["metadata"]["name"].startswith(NAME_PREFIX)


def of_workflow(workflow: Workflow) -> JobStatus:
    """A job's status: job_id, status, progress (0-100), current_model, stage, engine, model_type, queue_position, created_at,
    updated_at, ended_at, error (failure record or None), note, warnings (sentences), gpu (see `gpu_time`), owner, source,
    priority, workflow (name), folder (in the bucket). Times are ISO 8601 in UTC. Never raises: `note` names fields that cannot be
    parsed. For a finished workflow its metadata is enough, see `of_annotation`."""
    workflow = workflows.read(workflow)
    return of_annotation(workflow) or _from_nodes(workflow)


def _from_nodes(workflow: workflows.Workflow) -> JobStatus:
    steps = step_nodes(workflow)
    status = status_of(workflow, steps)
    arguments = parameters(workflow)
    running = [node for node in steps if node["phase"] in ("Running", "Pending")] if status == "processing" else []
    record = failure(workflow) if status in ("failed", "cancelled") else None
    details = record["details"] if record else {}
    return {
        "job_id": job_of(workflow["metadata"]["name"]),
        "status": status,
        "progress": 100 if status == "completed" else progress(workflow, steps),
        "model_type": text(arguments.get("model"), MAX_WORD),
        "current_model": next((model_of(n) for n in reversed(running) if model_of(n)), None),
        "stage": stage(running[-1]) if running else details.get("pipeline_stage") or None,
        "engine": _engine(steps) or details.get("engine") or None,
        "queue_position": None,
        "created_at": workflow["metadata"]["creationTimestamp"],
        "updated_at": _updated(workflow, steps),
        "ended_at": workflow["status"]["finishedAt"] or None,
        "error": record,
        "note": note(workflow, status in ("queued", "processing")),
        "warnings": warnings_of(steps),
        "gpu": gpu_time.of_nodes(steps),
        "owner": workflow["metadata"]["labels"].get(OWNER, ""),
        "source": workflow["metadata"]["labels"].get(SOURCE, "argo"),
        "priority": text(arguments.get("priority", "normal"), MAX_WORD),
        "workflow": workflow["metadata"]["name"],
        "folder": folder_of(workflow),
    }


def of_annotation(workflow: Workflow) -> JobStatus | None:
    """Status of a finished workflow, from the exit handler's record in its annotation. None where there is no record, or it is
    from before a retry."""
    metadata = workflows.read(workflow)["metadata"]
    labels, status = metadata["labels"], workflows.read(workflow)["status"]
    if labels.get(COMPLETED) != "true" or RECORD not in metadata["annotations"]:
        return None
    record = mapping(reading.json_of(metadata["annotations"][RECORD]))
    started_at, ended_at = parse_time(status["startedAt"]), parse_time(record.get("ended_at"))
    is_stale = (
        record.get("job_id") != job_of(metadata["name"])
        or ended_at is None
        or (started_at is not None and ended_at < started_at)
    )
    if is_stale or (record.get("status") == "completed") != (labels.get(PHASE) == "Succeeded"):
        return None
    fields = of_record(record)
    metadata_fields = {"owner": labels.get(OWNER, ""), "source": labels.get(SOURCE, "argo")}
    metadata_fields |= {"workflow": metadata["name"], "folder": folder_of(workflow)}
    return (
        fields
        | metadata_fields
        | {"created_at": metadata["creationTimestamp"], "note": note(workflow, False) or fields["note"]}
    )


def parameters(workflow: Workflow) -> dict[str, str]:
    """The workflow's parameters, with the template's defaults."""
    workflow = workflows.read(workflow)
    template_arguments = workflow["status"]["storedWorkflowTemplateSpec"]["arguments"]["parameters"]
    arguments = workflow["spec"]["arguments"]["parameters"]
    return {item["name"]: text(item.get("value")) for item in [*template_arguments, *arguments]}


def status_of(workflow: Workflow, steps: list[dict[str, Any]]) -> str:
    """One of STATUSES. A stopped job is `cancelled` at once, while its pods still terminate."""
    phase = workflow["status"]["phase"]
    if phase == "Succeeded" or (phase in ENDED and tasks_phase(workflow) == "Succeeded"):
        return "completed"  # in the second case only the exit handler has failed
    if workflow["spec"]["shutdown"] and ENDED_BY not in workflow["metadata"]["annotations"]:
        return "cancelled"
    if phase in ENDED:
        return "failed"
    return "processing" if any(node["phase"] != "Pending" for node in steps) else "queued"


def failure(workflow: Workflow) -> Record:
    """The exit handler's failure record; without one, the record computed from the workflow."""
    nodes = workflow["status"]["nodes"].values()
    records = [outputs(n)["failure"] for n in nodes if n["templateName"] == "report" and outputs(n).get("failure")]
    record = reading.failure(records[0] if records else describe(workflow, [], "Failed")["failure"])
    return record or reading.unreadable("The failure record that the exit handler left")


def progress(workflow: Workflow, steps: list[dict[str, Any]]) -> int:
    """Percent of the job's expected time, 0 to 99, by PROGRESS_WEIGHTS; two models share the weight of one."""
    model = parameters(workflow).get("model", MODELS[0])
    n_models = len(MODELS) if model == "both" else 1
    fractions: dict[str, float] = {}
    for node in steps:
        fractions[node["templateName"]] = max(fractions.get(node["templateName"], 0.0), _done(node))
    return min(99, int(sum(fraction * _share(name, n_models) for name, fraction in fractions.items())))


def _share(template: str, n_models: int) -> float:
    step = template.removesuffix("-pod").rpartition("-")[2]
    share = PROGRESS_WEIGHTS["model"] if step in MODELS else PROGRESS_WEIGHTS.get(step, 0)
    return share / n_models if template.partition("-")[0] in MODELS else share


def _done(node: dict[str, Any]) -> float:
    if node["phase"] == "Succeeded":
        return 1.0
    completed, _, total = node["progress"].partition("/")
    return (
        min(1.0, reading.integer(completed) / max(1, reading.integer(total, 1))) if node["phase"] == "Running" else 0.0
    )


def stage(node: dict[str, Any]) -> str:
    """Stage of a running pod, by its step."""
    return STAGES.get(step_of(node), "inference")


def _engine(steps: list[dict[str, Any]]) -> str:
    used = [text(outputs(node).get("engine"), MAX_WORD) for node in steps if step_of(node) in MODELS]
    return ", ".join(dict.fromkeys(e for e in used if e))


def _updated(workflow: Workflow, steps: list[dict[str, Any]]) -> str:
    times = [node[key] for node in steps for key in ("startedAt", "finishedAt")]
    known = [workflow["metadata"]["creationTimestamp"], workflow["status"]["finishedAt"], *times]
    return max((t for t in known if parse_time(t)), key=lambda t: parse_time(t) or datetime.min, default=EPOCH)


def note(workflow: Workflow, unfinished: bool = True) -> str | None:
    """Sentences for people: parse errors and, for an unfinished job, suspension, why it waits, a cancellation request."""
    workflow = workflows.read(workflow)
    sentences = [parse_error_note(workflow)]
    if unfinished:
        sentences += [suspension_note(workflow), waiting_note(workflow), cancellation_note(workflow)]
    return " ".join(filter(None, sentences)) or None


def parse_error_note(workflow: Workflow) -> str:
    """A sentence on the fields that cannot be parsed; "" where there are none."""
    requested_at = workflow["metadata"]["annotations"].get(CANCEL_REQUESTED, "")
    annotation_errors = (
        [f"the annotation {CANCEL_REQUESTED}={text(requested_at, MAX_WORD)!r} is no time"]
        if requested_at and parse_time(requested_at) is None
        else []
    )
    errors = [*workflows.read(workflow).parse_errors, *annotation_errors]
    return f"Of the workflow not everything can be read: {'; '.join(errors)}." if errors else ""


def suspension_note(workflow: Workflow) -> str:
    """A sentence for a workflow with spec.suspend; "" otherwise."""
    if workflow["spec"].get("suspend") is not True:
        return ""
    return f"The job is suspended: `argo resume {workflow['metadata']['name']}` lets it go on."


def waiting_note(workflow: Workflow) -> str:
    """Why a job waits, from the reconciler's annotation; "" where it does not."""
    workflow = workflows.read(workflow)
    content = mapping(reading.json_of(workflow["metadata"]["annotations"].get(WAITING)))
    if content.get("step") == NOT_STARTED and workflow["status"]["phase"]:
        return ""  # started since the annotation was written
    code, reason, advice, since, ends = (text(content.get(k)) for k in ("code", "reason", "advice", "since", "ends"))
    if not reason:
        return ""
    if not code:
        return f"{reason} Since {since}."
    return " ".join(filter(None, (reason, advice, f"The job ends as {code} at {ends} unless this changes.")))


def cancellation_note(workflow: Workflow) -> str:
    """A sentence for a cancellation request that is neither confirmed nor expired; "" otherwise."""
    requested_at = workflow["metadata"]["annotations"].get(CANCEL_REQUESTED, "")
    time = parse_time(requested_at)
    if time is None or (datetime.now(UTC) - time).total_seconds() > CANCEL_SECONDS:
        return ""
    return f"A cancellation was requested at {text(requested_at, MAX_WORD)} and waits for its confirmation."


def with_queue(queued: JobStatus, others: list[JobStatus]) -> JobStatus:
    """The status with queue_position, from 1: by priority, then by age. Unchanged unless queued."""
    if queued["status"] != "queued":
        return queued

    def rank(job: JobStatus) -> tuple[int, str, str]:
        return (-PRIORITIES.get(job["priority"], 0), job["created_at"], job["job_id"])

    ahead = sum(rank(job) < rank(queued) for job in others if job["status"] == "queued")
    return queued | {"queue_position": ahead + 1}


def of_record(content: Any) -> JobStatus:
    """Status of a finished job from its record. A malformed record gives an error in `error`."""
    record = mapping(content)
    status = record.get("status") if record.get("status") in ("completed", "failed", "cancelled") else "failed"
    error = None if status == "completed" else reading.failure(record.get("error"))
    if status != "completed" and error is None:
        error = reading.unreadable("The record of the job")
    created, ended = (reading.time_text(record.get(name)) for name in ("created_at", "ended_at"))
    extra = {text(name, MAX_WORD): text(value) for name, value in record.items() if isinstance(value, str)}
    return {
        **extra,
        "job_id": text(record.get("job_id"), MAX_WORD),
        "status": status,
        "progress": 100 if status == "completed" else 0,
        "model_type": text(record.get("model_type"), MAX_WORD),
        "current_model": None,
        "stage": text(record.get("stage"), MAX_WORD) or None,
        "engine": text(record.get("engine"), MAX_WORD) or None,
        "queue_position": None,
        "created_at": created or ended or EPOCH,
        "updated_at": ended or created or EPOCH,
        "ended_at": ended or None,
        "error": error,
        "note": None,
        "warnings": reading.texts(record.get("warnings"), MAX_WARNINGS),
        "gpu": gpu_time.of_record(record.get("gpu")),
        "owner": text(record.get("owner"), MAX_WORD),
        "source": text(record.get("source"), MAX_WORD),
        "priority": text(record.get("priority"), MAX_WORD) or "normal",
        "workflow": text(record.get("workflow"), MAX_WORD),
        "folder": text(record.get("folder"), MAX_WORD) or text(record.get("job_id"), MAX_WORD),
    }
