"""The routes of a job that is there: questions, orders, results. Each answers from the watch, from S3 or by an order to the
cluster; nothing is kept here."""

from __future__ import annotations

import heapq
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict

from pipeline.clients import s3
from pipeline.clients.workflows import NAME_PREFIX
from pipeline.gateway import errors, results
from pipeline.gateway.dependencies import AWAY, Asker, Shared, find
from pipeline.gateway.errors import RateLimited, Unauthorized, documented
from pipeline.jobs import service
from pipeline.jobs.status import JobStatus
from steps.runtime.contract import MODELS
from steps.runtime.errors import (
    ClusterUnavailable,
    IncompleteResults,
    JobExpired,
    JobFailed,
    JobNotFound,
    JobNotReady,
    ValidationFailed,
)

# the report is HTML that somebody's pictures were packed into: it may show itself, and nothing else
REPORT_SECURITY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
router = APIRouter()


class Confirmation(BaseModel):
    model_config = ConfigDict(extra="ignore")
    confirm: bool = False


class Status(BaseModel):
    job_id: str
    status: str
    progress: int
    current_model: str | None
    model_type: str | None
    engine: str | None
    stage: str | None
    queue_position: int | None
    created_at: str
    updated_at: str
    error: dict[str, Any] | None
    note: str | None
    warnings: list[str]
    links: dict[str, str]


class Cancellation(BaseModel):
    job_id: str
    status: str
    message: str


# -- questions --------------------------------------------------------------------------------------------------------


@router.get(
    "/jobs",
    summary="Your jobs, the newest first",
    response_model=list[Status],
    responses=documented(Unauthorized, ValidationFailed, RateLimited, ClusterUnavailable),
)
async def listing(shared: Shared, asker: Asker, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Any:
    if not shared.watched.complete:  # a part of them would be taken for all
        raise ClusterUnavailable(
            "This service has just started, and is still reading the jobs.", "Try again in a moment."
        )
    found = (job_status for job_status in list(shared.watched.jobs.values()) if asker.may_see(job_status["owner"]))
    return [
        shown(job_status) for job_status in heapq.nlargest(limit, found, key=lambda v: (v["created_at"], v["job_id"]))
    ]


@router.get(
    "/jobs/{job}",
    summary="How a job is doing",
    response_model=Status,
    responses=documented(Unauthorized, JobNotFound, RateLimited, *AWAY),
)
async def status(job: str, shared: Shared, asker: Asker) -> Any:
    return shown(await find(shared, asker, job))


def shown(job_status: JobStatus) -> dict[str, Any]:
    """A view, as clients get it."""
    base = f"/jobs/{job_status['job_id']}"
    links = {"self": base}
    if job_status["status"] in ("queued", "processing"):
        links["cancel"] = f"{base}/cancel"
    if job_status["status"] == "completed":
        links |= {"download": f"{base}/download", "mesh": f"{base}/mesh"}
    if job_status["status"] in ("completed", "failed"):
        links["report"] = f"{base}/report"
    return {**{name: job_status[name] for name in Status.model_fields if name != "links"}, "links": links}


# -- orders -----------------------------------------------------------------------------------------------------------


@router.post(
    "/jobs/{job}/cancel",
    response_model=Cancellation,
    summary="Ask for a cancellation, then confirm it",
    responses={
        **documented(Unauthorized, JobNotFound, ValidationFailed, RateLimited, *AWAY),
        400: documented(JobNotReady)[409],
    },
)
async def cancel(job: str, shared: Shared, asker: Asker, body: Confirmation | None = None) -> Any:
    """The first request only asks, and is forgotten after an hour; one with `{"confirm": true}` stops the job."""
    job_status = await find(shared, asker, job)
    try:
        if not service.may_cancel(job_status):
            return told(job_status, "cancelled", "The job was cancelled already.")
    except JobNotReady as error:
        return errors.answer(error, 400)
    if body is None or not body.confirm:
        await run_in_threadpool(service.request_cancel, shared.cluster, job_status["job_id"])
        return told(
            job_status,
            "cancel_requested",
            'Send {"confirm": true} within an hour to cancel the job; what it has made is lost.',
        )
    order = (NAME_PREFIX + job_status["job_id"], {"sixview.dev/cancelled-by": asker.name or "http"})
    stopped = await run_in_threadpool(shared.cluster.stop, *order)
    if stopped:
        shared.watched.see(stopped)
    return told(job_status, "cancelled", "The job is being stopped.")


def told(job_status: JobStatus, status: str, message: str) -> dict[str, str]:
    return {"job_id": job_status["job_id"], "status": status, "message": message}


# -- results ----------------------------------------------------------------------------------------------------------

_RESULT_ERRORS = documented(
    Unauthorized, JobNotFound, JobNotReady, JobExpired, JobFailed, IncompleteResults, RateLimited, *AWAY
)
_ZIP: dict[str, Any] = {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}


@router.get(
    "/jobs/{job}/download",
    response_class=Response,
    summary="The ZIP",
    responses={
        **_RESULT_ERRORS,
        200: {"description": "The ZIP", **_ZIP},
        206: {"description": "The range that was asked for", **_ZIP},
        307: {"description": "Where the store itself hands it out"},
        416: {"description": "Nothing lies in that range"},
    },
)
async def download(
    job: str,
    shared: Shared,
    asker: Asker,
    range: Annotated[str, Header()] = "",
    if_range: Annotated[str, Header()] = "",
) -> Response:
    """Streamed, in ranges where a client asks for them. A broken download goes on with `Range` and `If-Range`."""
    job_status = await find(shared, asker, job)
    key, head = await run_in_threadpool(service.result, job_status)
    name = f"{job_status['job_id']}.zip"
    if shared.options.redirect:
        return await run_in_threadpool(results.redirect, key, name)
    return await run_in_threadpool(results.download, key, head, name, range, if_range)


@router.get(
    "/jobs/{job}/report", response_class=HTMLResponse, summary="The report, as a page", responses=_RESULT_ERRORS
)
async def report(job: str, shared: Shared, asker: Asker) -> Response:
    """Also of a job that failed: its report says why."""
    job_status = await find(shared, asker, job)
    text = await run_in_threadpool(s3.read, s3.key_of(job_status["folder"], "report.html"))
    if text is None:
        await run_in_threadpool(service.result, job_status)  # says why there is none
        raise JobExpired(f"The report of the job {job_status['job_id']} is no longer kept.")
    return HTMLResponse(text, headers={"Content-Security-Policy": REPORT_SECURITY})


@router.get(
    "/jobs/{job}/mesh",
    response_class=Response,
    summary="The mesh, as GLB",
    responses={**_RESULT_ERRORS, **documented(ValidationFailed)},
)
async def mesh(job: str, shared: Shared, asker: Asker, model: Annotated[str | None, Query()] = None) -> Response:
    """model: which, where there are both; without it the last that was made."""
    if model and model not in MODELS:
        raise ValidationFailed("There is no such model.", f"Give {' or '.join(MODELS)}.", field="model", choices=MODELS)
    job_status = await find(shared, asker, job)
    key, head = await run_in_threadpool(service.result, job_status)
    model = model or (MODELS[-1] if job_status["model_type"] == "both" else job_status["model_type"])
    body, size = await run_in_threadpool(results.member, key, int(head["ContentLength"]), f"{model}/mesh.glb")
    return StreamingResponse(body, headers={"Content-Length": str(size)}, media_type="model/gltf-binary")
