"""Routes of existing jobs: status, cancel, results. Stateless: they use the informer, S3 and the API server."""

from __future__ import annotations

import heapq
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from pipeline.clients import s3
from pipeline.clients.workflows import NAME_PREFIX
from pipeline.gateway import errors, results
from pipeline.gateway.dependencies import UNAVAILABLE, CurrentGateway, CurrentPrincipal, find
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

# the report contains users' content: it is sandboxed and may load nothing
REPORT_SECURITY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
router = APIRouter()


class Confirmation(BaseModel):
    model_config = ConfigDict(extra="ignore")
    confirm: bool = False


class StepGpuTime(BaseModel):
    held_seconds: float = Field(description="For which its pods held a GPU")
    busy_seconds: float = Field(description="Of these the ones in which it computed")


class GpuTime(StepGpuTime):
    name: str = Field(description="Of the GPU, or of each kind of them")
    steps: dict[str, StepGpuTime] = Field(description="The same of each step: reconviagen, reconviagen.quality, …")


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
    gpu: GpuTime | None
    links: dict[str, str]


class Cancellation(BaseModel):
    job_id: str
    status: str
    message: str


# -- status --------------------------------------------------------------------------------------------------------


@router.get(
    "/jobs",
    summary="Your jobs, the newest first",
    response_model=list[Status],
    responses=documented(Unauthorized, ValidationFailed, RateLimited, ClusterUnavailable),
)
async def listing(
    gateway: CurrentGateway, principal: CurrentPrincipal, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> Any:
    if not gateway.informer.has_listed:  # an incomplete list would look complete
        raise ClusterUnavailable(
            "This service has just started, and is still reading the jobs.", "Try again in a moment."
        )
    visible = (
        job_status for job_status in list(gateway.informer.jobs.values()) if principal.may_see(job_status["owner"])
    )
    return [
        public_status(job_status)
        for job_status in heapq.nlargest(limit, visible, key=lambda v: (v["created_at"], v["job_id"]))
    ]


@router.get(
    "/jobs/{job}",
    summary="How a job is doing",
    response_model=Status,
    responses=documented(Unauthorized, JobNotFound, RateLimited, *UNAVAILABLE),
)
async def status(job: str, gateway: CurrentGateway, principal: CurrentPrincipal) -> Any:
    return public_status(await find(gateway, principal, job))


def public_status(job_status: JobStatus) -> dict[str, Any]:
    """A job's status as in the API, with links."""
    base = f"/jobs/{job_status['job_id']}"
    links = {"self": base}
    if job_status["status"] in ("queued", "processing"):
        links["cancel"] = f"{base}/cancel"
    if job_status["status"] == "completed":
        links |= {"download": f"{base}/download", "mesh": f"{base}/mesh"}
    if job_status["status"] in ("completed", "failed"):
        links["report"] = f"{base}/report"
    return {**{name: job_status[name] for name in Status.model_fields if name != "links"}, "links": links}


# -- cancel -----------------------------------------------------------------------------------------------------------


@router.post(
    "/jobs/{job}/cancel",
    response_model=Cancellation,
    summary="Ask for a cancellation, then confirm it",
    responses={
        **documented(Unauthorized, JobNotFound, ValidationFailed, RateLimited, *UNAVAILABLE),
        400: documented(JobNotReady)[409],
    },
)
async def cancel(
    job: str, gateway: CurrentGateway, principal: CurrentPrincipal, body: Confirmation | None = None
) -> Any:
    """The first request only asks, and is forgotten after an hour; one with `{"confirm": true}` stops the job."""
    job_status = await find(gateway, principal, job)
    try:
        if not service.may_cancel(job_status):
            return cancellation(job_status, "cancelled", "The job was cancelled already.")
    except JobNotReady as error:
        return errors.error_response(error, 400)
    if body is None or not body.confirm:
        await run_in_threadpool(service.request_cancel, gateway.cluster, job_status["job_id"])
        return cancellation(
            job_status,
            "cancel_requested",
            'Send {"confirm": true} within an hour to cancel the job; what it has made is lost.',
        )
    arguments = (NAME_PREFIX + job_status["job_id"], {"sixview.dev/cancelled-by": principal.name or "http"})
    stopped = await run_in_threadpool(gateway.cluster.stop, *arguments)
    if stopped:
        gateway.informer.apply(stopped)
    return cancellation(job_status, "cancelled", "The job is being stopped.")


def cancellation(job_status: JobStatus, status: str, message: str) -> dict[str, str]:
    return {"job_id": job_status["job_id"], "status": status, "message": message}


# -- results ----------------------------------------------------------------------------------------------------------

_RESULT_ERRORS = documented(
    Unauthorized, JobNotFound, JobNotReady, JobExpired, JobFailed, IncompleteResults, RateLimited, *UNAVAILABLE
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
    gateway: CurrentGateway,
    principal: CurrentPrincipal,
    range: Annotated[str, Header()] = "",
    if_range: Annotated[str, Header()] = "",
) -> Response:
    """Streamed, in ranges where a client asks for them. A broken download goes on with `Range` and `If-Range`."""
    job_status = await find(gateway, principal, job)
    key, head = await run_in_threadpool(service.result, job_status)
    name = f"{job_status['job_id']}.zip"
    if gateway.options.redirect:
        return await run_in_threadpool(results.redirect, key, name)
    return await run_in_threadpool(results.download, key, head, name, range, if_range)


@router.get(
    "/jobs/{job}/report", response_class=HTMLResponse, summary="The report, as a page", responses=_RESULT_ERRORS
)
async def report(job: str, gateway: CurrentGateway, principal: CurrentPrincipal) -> Response:
    """Also of a job that failed: its report says why."""
    job_status = await find(gateway, principal, job)
    text = await run_in_threadpool(s3.read, s3.key_of(job_status["folder"], "report.html"))
    if text is None:
        await run_in_threadpool(service.result, job_status)  # raises the reason
        raise JobExpired(f"The report of the job {job_status['job_id']} is no longer kept.")
    return HTMLResponse(text, headers={"Content-Security-Policy": REPORT_SECURITY})


@router.get(
    "/jobs/{job}/mesh",
    response_class=Response,
    summary="The mesh, as GLB",
    responses={**_RESULT_ERRORS, **documented(ValidationFailed)},
)
async def mesh(
    job: str, gateway: CurrentGateway, principal: CurrentPrincipal, model: Annotated[str | None, Query()] = None
) -> Response:
    """model: which, where there are both; without it the last that was made."""
    if model and model not in MODELS:
        raise ValidationFailed("There is no such model.", f"Give {' or '.join(MODELS)}.", field="model", choices=MODELS)
    job_status = await find(gateway, principal, job)
    key, head = await run_in_threadpool(service.result, job_status)
    model = model or (MODELS[-1] if job_status["model_type"] == "both" else job_status["model_type"])
    body, size = await run_in_threadpool(results.member, key, int(head["ContentLength"]), f"{model}/mesh.glb")
    return StreamingResponse(body, headers={"Content-Length": str(size)}, media_type="model/gltf-binary")
