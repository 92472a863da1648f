"""The route that takes a set: a form whose files go to S3 as they arrive, or an order for one that lies there."""

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
from pipeline.gateway.dependencies import AWAY, Asker, Gateway, Shared
from pipeline.gateway.errors import RateLimited, RequestTooLarge, Unauthorized, documented
from pipeline.gateway.tokens import ANYBODY, Client
from pipeline.jobs import ids, service
from pipeline.jobs.status import JobStatus
from steps.runtime.contract import MODELS
from steps.runtime.errors import FileTooLarge, InvalidFileCount, InvalidFileFormat, JobNotFound, ValidationFailed

BAD_INPUT = (InvalidFileCount, FileTooLarge, InvalidFileFormat, ValidationFailed)
router = APIRouter()


class Order(BaseModel):
    """A set that lies in S3 already."""

    model_config = ConfigDict(extra="forbid")
    input: str
    model_type: str = MODELS[0]
    options: dict[str, StrictStr | StrictInt | StrictFloat] = {}  # true is no number


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
                    "model_type": {"type": "string", "enum": [*MODELS, "both"], "default": MODELS[0]},
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
    responses=documented(Unauthorized, RequestTooLarge, *BAD_INPUT, RateLimited, *AWAY),
    openapi_extra={"requestBody": _BODY},
)
async def submit(
    request: Request,
    shared: Shared,
    asker: Asker,
    model_type: Annotated[str | None, Query(description="As the form field of this name.")] = None,
    idempotency_key: Annotated[
        str | None, Header(max_length=200, description="The same key twice is the same job.")
    ] = None,
) -> Any:
    """The files go to S3 as they arrive. A request whose answer was lost may be sent again with the same Idempotency-Key."""
    length = request.headers.get("content-length", "0")
    if not re.fullmatch("[0-9]{1,12}", length) or int(length) > uploads.MOST_BODY:
        raise RequestTooLarge(f"A request may have {uploads.MOST_BODY / 1e6:.0f} MB at most.")
    key = (idempotency_key or "").strip()
    job = ids.keyed_id("http", asker.name, key) if key else ids.new_id()
    before = await earlier(shared, asker, job) if key else None
    if before:
        return submitted(before)
    if asker is not ANYBODY and shared.watched.active_of(asker.name) >= shared.options.jobs_per_token:
        raise RateLimited(f"{shared.options.jobs_per_token} jobs of this token have not ended yet.", retry_after=60)
    folder = f"{job}.{ids.new_id()}"  # of this request alone: whatever becomes of it, no other one's files are touched
    source, options = await received(request, shared, folder)
    asked = options.pop("model_type", None)
    options = {"model": model_type or asked or MODELS[0], **options}
    try:
        options = service.options_from(options, await shared.options_known())
        order = (shared.cluster, job, source, options, shared.options.template)
        job_status = await run_in_threadpool(service.submit, *order, owner=asker.name, source="http")
    except BaseException:
        forget(folder)
        raise
    return submitted(job_status)


async def earlier(shared: Gateway, asker: Client, job: str) -> JobStatus | None:
    """The job that an Idempotency-Key has led to before. Raises ValidationFailed where it is not the asker's."""
    job_status = shared.watched.get(job)
    if job_status is None:
        try:
            job_status = await run_in_threadpool(service.find, shared.cluster, job)
        except JobNotFound:
            return None
    return service.check_owner(job_status, asker.name, "http")


def submitted(job_status: JobStatus) -> dict[str, Any]:
    return {name: job_status[name] for name in ("job_id", "status", "model_type", "created_at")}


async def received(request: Request, shared: Gateway, folder: str) -> tuple[str, dict[str, Any]]:
    """The input's address in S3 and the options."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() == "application/json":
        return await ordered(request, shared)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ValidationFailed(
            "The request's body is compressed.", "Send it as it is: PNG files are compressed already."
        )
    async with turn(shared):
        try:
            with metrics.UPLOADS.track_inprogress():
                arrived = await uploads.receive(request.stream(), content_type, folder)
                source = await uploads.settle(arrived)
                options = form_options(arrived.texts)
        except ClientDisconnect:
            forget(folder)
            raise ValidationFailed("The client went away before the request was whole.") from None
        except BaseException:
            forget(folder)
            raise
    metrics.UPLOADED.inc(arrived.total)
    return source, options


async def ordered(request: Request, shared: Gateway) -> tuple[str, dict[str, Any]]:
    data = b""
    async for piece in request.stream():
        data += piece
        if len(data) > uploads.MOST_TEXT:
            raise RequestTooLarge("An order in JSON is small.")
    try:
        order = Order.model_validate_json(data)
    except ValueError as error:
        raise ValidationFailed(
            f"The order cannot be read: {str(error).splitlines()[0]}.", "See /docs for its form."
        ) from None
    return service.allowed_source(order.input, shared.options.input_buckets), {
        "model_type": order.model_type,
        **order.options,
    }


def form_options(texts: dict[str, str]) -> dict[str, Any]:
    """The text fields of a form."""
    unknown = set(texts) - {"model_type", "options"}
    if unknown:
        raise ValidationFailed(
            f"The form has the field {sorted(unknown)[0][:100]!r}, which nobody reads.", "See /docs for its fields."
        )
    how = 'Write {"resolution": 512}, for example.'
    options = json_text.parse_object(
        texts.get("options", "").strip() or "{}", "The field options", how, field="options"
    )
    return {"model_type": texts.get("model_type"), **options}


@asynccontextmanager
async def turn(shared: Gateway) -> AsyncIterator[None]:
    """So many uploads at a time; the others wait, and their bytes with their clients."""
    if shared.waiting >= shared.options.uploads_waiting:
        raise RateLimited("Too many uploads wait for their turn here.", retry_after=10)
    shared.waiting += 1
    try:
        await shared.uploads.acquire()
    finally:
        shared.waiting -= 1
    try:
        yield
    finally:
        shared.uploads.release()


def forget(folder: str) -> None:
    """What arrived of a job that is none goes away, soon; what is missed here, the bucket's lifecycle takes."""
    asyncio.get_running_loop().run_in_executor(None, s3.purge, f"{s3.INPUTS}{folder}/")
