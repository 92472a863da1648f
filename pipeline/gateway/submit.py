"""POST /jobs: a multipart form whose files are streamed to S3, or JSON that names a set in S3."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, StrictFloat, StrictInt, StrictStr
from starlette.requests import ClientDisconnect

from pipeline.clients import json_text, s3
from pipeline.gateway import metrics, uploads
from pipeline.gateway.dependencies import UNAVAILABLE, CurrentGateway, CurrentPrincipal, Gateway
from pipeline.gateway.errors import RateLimited, RequestTooLarge, Unauthorized, documented
from pipeline.gateway.tokens import ANONYMOUS, Principal
from pipeline.jobs import ids, service
from pipeline.jobs.status import JobStatus
from steps.runtime.errors import FileTooLarge, InvalidFileCount, InvalidFileFormat, JobNotFound, ValidationFailed
from steps.runtime.options import JOB_OPTIONS

MODEL = JOB_OPTIONS["model"]
BAD_INPUT = (InvalidFileCount, FileTooLarge, InvalidFileFormat, ValidationFailed)
router = APIRouter()


class JobRequest(BaseModel):
    """A set that lies in S3 already."""

    model_config = ConfigDict(extra="forbid", title="Order")  # its public name in the OpenAPI schema
    input: str
    model_type: str = MODEL.default
    options: dict[str, StrictStr | StrictInt | StrictFloat] = {}  # strict: `true` is not 1


class Submitted(BaseModel):
    job_id: str
    status: str
    model_type: str
    created_at: str


_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 6, "maxItems": 6}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["views", "depth_renders"],
                "properties": {
                    "views": {
                        **_FILES,
                        "description": "front, back, left, right, top, bottom, unless all six names tell a view",
                    },
                    "depth_renders": {**_FILES, "description": "in the same order"},
                    "cameras": {"type": "string", "format": "binary", "description": "a cameras.json"},
                    "model_type": {"type": "string", "enum": list(MODEL.choices), "default": MODEL.default},
                    "options": {"type": "string", "description": "JSON object with further parameters of the workflow"},
                },
            }
        },
        "application/json": {"schema": {"$ref": "#/components/schemas/Order"}},
    },
}


@router.post(
    "/jobs",
    response_model=Submitted,
    summary="Submit six views and six depth renders",
    responses=documented(Unauthorized, RequestTooLarge, *BAD_INPUT, RateLimited, *UNAVAILABLE),
    openapi_extra={"requestBody": _BODY},
)
async def submit(
    request: Request,
    gateway: CurrentGateway,
    principal: CurrentPrincipal,
    model_type: Annotated[str | None, Query(description="As the form field of this name.")] = None,
    idempotency_key: Annotated[
        str | None, Header(max_length=200, description="The same key twice is the same job.")
    ] = None,
) -> Any:
    """The files go to S3 as they arrive. A request whose answer was lost may be sent again with the same Idempotency-Key."""
    length = request.headers.get("content-length", "0")
    if not re.fullmatch("[0-9]{1,12}", length) or int(length) > uploads.MAX_BODY:
        raise RequestTooLarge(f"A request may have {uploads.MAX_BODY / 1e6:.0f} MB at most.")
    key = (idempotency_key or "").strip()
    job = ids.keyed_id("http", principal.name, key) if key else ids.new_id()
    existing = await existing_job(gateway, principal, job) if key else None
    if existing:
        return submission(existing)
    if principal is not ANONYMOUS and gateway.informer.active_of(principal.name) >= gateway.options.jobs_per_token:
        raise RateLimited(f"{gateway.options.jobs_per_token} jobs of this token have not ended yet.", retry_after=60)
    folder = f"{job}.{ids.new_id()}"  # unique per request: cleaning up after a failed one deletes no other files
    source, options = await receive_input(request, gateway, folder)
    model_option = options.pop("model_type", None)
    options = {"model": model_type or model_option or MODEL.default, **options}
    try:
        options = service.options_from(options, await gateway.parameters())
        arguments = (gateway.cluster, job, source, options, gateway.options.template)
        job_status = await run_in_threadpool(service.submit, *arguments, owner=principal.name, source="http")
    except BaseException:
        delete_upload(folder)
        raise
    gateway.informer.add(job_status)
    return submission(job_status)


async def existing_job(gateway: Gateway, principal: Principal, job: str) -> JobStatus | None:
    """Status of the job with this Idempotency-Key's id; None for a new one. Raises ValidationFailed for another principal's."""
    job_status = gateway.informer.get(job)
    if job_status is None:
        try:
            job_status = await run_in_threadpool(service.find, gateway.cluster, job)
        except JobNotFound:
            return None
    return service.check_owner(job_status, principal.name, "http")


def submission(job_status: JobStatus) -> dict[str, Any]:
    return {name: job_status[name] for name in ("job_id", "status", "model_type", "created_at")}


async def receive_input(request: Request, gateway: Gateway, folder: str) -> tuple[str, dict[str, Any]]:
    """Reads the request: s3:// URL of the input, and options. folder: for uploads, below inputs/. Deletes them after an error."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() == "application/json":
        return await receive_json(request, gateway)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ValidationFailed(
            "The request's body is compressed.", "Send it as it is: PNG files are compressed already."
        )
    async with upload_slot(gateway):
        try:
            with metrics.UPLOADS.track_inprogress():
                upload = await uploads.receive(request.stream(), content_type, folder)
                source = await uploads.finalize(upload)
                options = form_options(upload.texts)
        except ClientDisconnect:
            delete_upload(folder)
            raise ValidationFailed("The client went away before the request was whole.") from None
        except BaseException:
            delete_upload(folder)
            raise
    metrics.UPLOADED.inc(upload.total)
    return source, options


async def receive_json(request: Request, gateway: Gateway) -> tuple[str, dict[str, Any]]:
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > uploads.MAX_TEXT:
            raise RequestTooLarge("An order in JSON is small.")
    try:
        job_request = JobRequest.model_validate_json(data)
    except ValueError as error:
        raise ValidationFailed(
            f"The order cannot be read: {str(error).splitlines()[0]}.", "See /docs for its form."
        ) from None
    return service.allowed_source(job_request.input, gateway.options.input_buckets), {
        "model_type": job_request.model_type,
        **job_request.options,
    }


def form_options(texts: dict[str, str]) -> dict[str, Any]:
    """Options in a form's text fields. Raises ValidationFailed for unknown fields."""
    unknown = set(texts) - {"model_type", "options"}
    if unknown:
        raise ValidationFailed(
            f"The form has the field {sorted(unknown)[0][:100]!r}, which nobody reads.", "See /docs for its fields."
        )
    advice = 'Write {"resolution": 512}, for example.'
    options = json_text.parse_object(
        texts.get("options", "").strip() or "{}", "The field options", advice, field="options"
    )
    return {"model_type": texts.get("model_type"), **options}


@asynccontextmanager
async def upload_slot(gateway: Gateway) -> AsyncIterator[None]:
    """Holds one of the upload slots; waits for one without reading the request. Raises RateLimited where too many wait."""
    if gateway.uploads_waiting >= gateway.options.uploads_waiting:
        raise RateLimited("Too many uploads wait for their turn here.", retry_after=10)
    gateway.uploads_waiting += 1
    try:
        await gateway.upload_slots.acquire()
    finally:
        gateway.uploads_waiting -= 1
    try:
        yield
    finally:
        gateway.upload_slots.release()


def delete_upload(folder: str) -> None:
    """Deletes an upload in the background; a lifecycle rule deletes what this misses."""
    asyncio.get_running_loop().run_in_executor(None, s3.purge, f"{s3.INPUTS}{folder}/")
