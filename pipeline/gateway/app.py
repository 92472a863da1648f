"""The routes. Each answers from the watch, from S3 or by an order to the cluster; nothing is kept here."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict
from starlette.requests import ClientDisconnect

from pipeline import ids, jobs, storage
from pipeline.clusters import Kubernetes
from pipeline.gateway import errors, health, metrics, results, uploads
from pipeline.gateway.errors import RateLimited, RequestTooLarge, Unauthorized, documented
from pipeline.gateway.tokens import ANYBODY, Client, Pace, Tokens
from pipeline.gateway.watching import Watched
from pipeline.views import PREFIX, View
from steps.contracts import MODELS
from steps.errors import (
    ClusterUnavailable,
    FileTooLarge,
    IncompleteResults,
    InvalidFileCount,
    InvalidFileFormat,
    JobExpired,
    JobFailed,
    JobNotFound,
    JobNotReady,
    StorageUnavailable,
    ValidationFailed,
)

WEB = Path(__file__).parent.parent / "web"
AWAY = (ClusterUnavailable, StorageUnavailable)
BAD_INPUT = (InvalidFileCount, FileTooLarge, InvalidFileFormat, ValidationFailed)
SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' blob: data:; worker-src 'self' blob:; frame-ancestors 'none'",
}
# the report is HTML that somebody's pictures were packed into: it may show itself, and nothing else
REPORT_SECURITY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Options:
    """What an installation decides. tokens: folder with the tokens' digests, None: anybody may do anything."""

    template: str = "sixview"
    tokens: Path | None = None
    input_buckets: tuple[str, ...] = ()
    requests_per_minute: int = 6000
    jobs_per_token: int = 200
    uploads_at_a_time: int = 8
    uploads_waiting: int = 256
    redirect: bool = False  # downloads by links into the store
    origins: tuple[str, ...] = ()  # for CORS


@dataclass
class Gateway:
    """What the routes share."""

    options: Options
    cluster: Kubernetes
    watched: Watched
    tokens: Tokens
    pace: Pace
    uploads: asyncio.Semaphore
    waiting: int = 0
    known: dict[str, Any] = field(default_factory=dict)  # the template's parameters
    known_at: float = float("-inf")

    async def options_known(self) -> dict[str, Any]:
        if time.monotonic() - self.known_at > 60:
            self.known = await run_in_threadpool(jobs.known_options, self.cluster, self.options.template)
            self.known_at = time.monotonic()
        return self.known


class Order(BaseModel):
    """A set that lies in S3 already."""

    model_config = ConfigDict(extra="forbid")
    input: str
    model_type: str = MODELS[0]
    options: dict[str, str | int | float] = {}


class Confirmation(BaseModel):
    model_config = ConfigDict(extra="ignore")
    confirm: bool = False


class Submitted(BaseModel):
    job_id: str
    status: str
    model_type: str
    created_at: str


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
    links: dict[str, str]


class Cancellation(BaseModel):
    job_id: str
    status: str
    message: str


class Healthy(BaseModel):
    status: str
    version: str
    cluster: dict[str, Any]
    s3: dict[str, Any]
    queue: dict[str, int]
    gpus: list[dict[str, Any]] | None


# -- who asks -----------------------------------------------------------------------------------------------------------


def gateway(request: Request) -> Gateway:
    found: Gateway = request.app.state.gateway
    return found


async def client(request: Request, shared: Annotated[Gateway, Depends(gateway)]) -> Client:
    """Whoever asks. Raises Unauthorized, RateLimited."""
    found = shared.tokens.client(request.headers.get("authorization", ""))
    if found is None:
        raise Unauthorized("There is no token, or one that is not known here.")
    wait = shared.pace.wait(found.name)
    if wait:
        raise RateLimited("There are too many requests with this token.", retry_after=max(1, round(wait)))
    return found


Shared = Annotated[Gateway, Depends(gateway)]
Asker = Annotated[Client, Depends(client)]
router = APIRouter()


async def find(shared: Gateway, asker: Client, job: str) -> View:
    """A job that the asker may see. Somebody else's is as unknown as none."""
    job = jobs.checked(job)
    view = shared.watched.get(job)
    if view is None:
        view = await run_in_threadpool(jobs.find, shared.cluster, job)
    if not asker.may_see(view["owner"]):
        raise JobNotFound(f"There is no job {job}.")
    return view


# -- submission ---------------------------------------------------------------------------------------------------------

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
    if not length.isdigit() or int(length) > uploads.MOST_BODY:
        raise RequestTooLarge(f"A request may have {uploads.MOST_BODY / 1e6:.0f} MB at most.")
    job = ids.new_id() if idempotency_key is None else ids.id_from("http", asker.name, idempotency_key)
    if idempotency_key is not None:
        try:
            return submitted(await find(shared, asker, job))
        except JobNotFound:
            pass
    if asker is not ANYBODY and shared.watched.active_of(asker.name) >= shared.options.jobs_per_token:
        raise RateLimited(f"{shared.options.jobs_per_token} jobs of this token have not ended yet.", retry_after=60)
    source, options = await received(request, shared, job)
    asked = options.pop("model_type", None)
    options = {"model": model_type or asked or MODELS[0], **options}
    try:
        options = jobs.options_from(options, await shared.options_known())
        order = (shared.cluster, job, source, options, shared.options.template)
        view = await run_in_threadpool(jobs.submit, *order, owner=asker.name, source="http")
    except BaseException:
        forget(job)
        raise
    return submitted(view)


def submitted(view: View) -> dict[str, Any]:
    return {name: view[name] for name in ("job_id", "status", "model_type", "created_at")}


async def received(request: Request, shared: Gateway, job: str) -> tuple[str, dict[str, Any]]:
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
                arrived = await uploads.receive(request.stream(), content_type, job)
                source = await uploads.settle(arrived)
                options = form_options(arrived.texts)
        except ClientDisconnect:
            forget(job)
            raise ValidationFailed("The client went away before the request was whole.") from None
        except BaseException:
            forget(job)
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
    return jobs.allowed_source(order.input, shared.options.input_buckets), {
        "model_type": order.model_type,
        **order.options,
    }


def form_options(texts: dict[str, str]) -> dict[str, Any]:
    """The text fields of a form."""
    unknown = set(texts) - {"model_type", "options"}
    if unknown:
        raise ValidationFailed(
            f"The form has the field {sorted(unknown)[0]!r}, which nobody reads.", "See /docs for its fields."
        )
    try:
        options = json.loads(texts.get("options") or "{}")
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise ValidationFailed("The field options is not a JSON object.", 'Write {"resolution": 512}, for example.')
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


def forget(job: str) -> None:
    """What arrived of a job that is none goes away, soon; what is missed here, the bucket's lifecycle takes."""
    asyncio.get_running_loop().run_in_executor(None, storage.purge, f"{storage.INPUTS}{job}/")


# -- questions ----------------------------------------------------------------------------------------------------------


@router.get(
    "/jobs",
    summary="Your jobs, the newest first",
    response_model=list[Status],
    responses=documented(Unauthorized, ValidationFailed, RateLimited),
)
async def listing(shared: Shared, asker: Asker, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Any:
    found = [view for view in list(shared.watched.jobs.values()) if asker.may_see(view["owner"])]
    found.sort(key=lambda view: (view["created_at"], view["job_id"]), reverse=True)
    return [shown(view) for view in found[:limit]]


@router.get(
    "/jobs/{job}",
    summary="How a job is doing",
    response_model=Status,
    responses=documented(Unauthorized, JobNotFound, RateLimited, *AWAY),
)
async def status(job: str, shared: Shared, asker: Asker) -> Any:
    return shown(await find(shared, asker, job))


def shown(view: View) -> dict[str, Any]:
    """A view, as clients get it."""
    base = f"/jobs/{view['job_id']}"
    links = {"self": base}
    if view["status"] in ("queued", "processing"):
        links["cancel"] = f"{base}/cancel"
    if view["status"] == "completed":
        links |= {"download": f"{base}/download", "mesh": f"{base}/mesh"}
    if view["status"] in ("completed", "failed"):
        links["report"] = f"{base}/report"
    return {**{name: view[name] for name in Status.model_fields if name != "links"}, "links": links}


# -- orders -------------------------------------------------------------------------------------------------------------


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
    view = await find(shared, asker, job)
    try:
        if not jobs.may_cancel(view):
            return told(view, "cancelled", "The job was cancelled already.")
    except JobNotReady as error:
        return errors.answer(error, 400)
    if body is None or not body.confirm:
        await run_in_threadpool(jobs.request_cancel, shared.cluster, view["job_id"])
        return told(
            view,
            "cancel_requested",
            'Send {"confirm": true} within an hour to cancel the job; what it has made is lost.',
        )
    order = (PREFIX + view["job_id"], {"sixview.dev/cancelled-by": asker.name or "http"})
    stopped = await run_in_threadpool(shared.cluster.stop, *order)
    if stopped:
        shared.watched.see(stopped)
    return told(view, "cancelled", "The job is being stopped.")


def told(view: View, status: str, message: str) -> dict[str, str]:
    return {"job_id": view["job_id"], "status": status, "message": message}


# -- results ------------------------------------------------------------------------------------------------------------

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
    view = await find(shared, asker, job)
    key, head = await run_in_threadpool(jobs.result, view)
    name = f"{view['job_id']}.zip"
    if shared.options.redirect:
        return await run_in_threadpool(results.redirect, key, name)
    return await run_in_threadpool(results.download, key, head, name, range, if_range)


@router.get(
    "/jobs/{job}/report", response_class=HTMLResponse, summary="The report, as a page", responses=_RESULT_ERRORS
)
async def report(job: str, shared: Shared, asker: Asker) -> Response:
    """Also of a job that failed: its report says why."""
    view = await find(shared, asker, job)
    text = await run_in_threadpool(storage.read, storage.key_of(view["job_id"], "report.html"))
    if text is None:
        await run_in_threadpool(jobs.result, view)  # says why there is none
        raise JobExpired(f"The report of the job {view['job_id']} is no longer kept.")
    return HTMLResponse(text, headers={"Content-Security-Policy": REPORT_SECURITY})


@router.get("/jobs/{job}/mesh", response_class=Response, summary="The mesh, as GLB", responses=_RESULT_ERRORS)
async def mesh(job: str, shared: Shared, asker: Asker, model: Annotated[str | None, Query()] = None) -> Response:
    """model: which, where there are both; without it the last that was made."""
    view = await find(shared, asker, job)
    key, head = await run_in_threadpool(jobs.result, view)
    model = model or (MODELS[-1] if view["model_type"] == "both" else view["model_type"])
    body, size = await run_in_threadpool(results.member, key, int(head["ContentLength"]), f"{model}/mesh.glb")
    return StreamingResponse(body, headers={"Content-Length": str(size)}, media_type="model/gltf-binary")


# -- the service itself -------------------------------------------------------------------------------------------------


def service(app: FastAPI) -> None:
    """What is there without a token."""

    @app.get(
        "/health",
        response_model=Healthy,
        summary="Whether jobs can be taken and done",
        responses={503: {"description": "Something is away", "model": Healthy}},
    )
    @app.get("/api/health", include_in_schema=False)
    async def healthy(shared: Shared) -> Any:
        found = await run_in_threadpool(health.look, shared.cluster, shared.watched)
        return JSONResponse(found, 200 if found["status"] == "healthy" else 503)

    @app.get("/live", include_in_schema=False)
    async def live() -> dict[str, str]:
        return {"status": "alive", "at": datetime.now(UTC).isoformat(timespec="seconds")}

    @app.get("/metrics", include_in_schema=False)
    async def measured(shared: Shared) -> Response:
        return metrics.page(shared.watched.counts())

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        vendor = "/web/vendor/"
        page = get_swagger_ui_html(
            openapi_url="/openapi.json",
            title="sixview",
            swagger_js_url=vendor + "swagger-ui-bundle.js",
            swagger_css_url=vendor + "swagger-ui.css",
            swagger_favicon_url="/web/icon.svg",
        )
        page.headers["Content-Security-Policy"] = "default-src 'self' 'unsafe-inline'; img-src 'self' data:"
        return page

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse((WEB / "index.html").read_text())

    app.mount("/web", StaticFiles(directory=WEB), name="web")


def create(options: Options, cluster: Kubernetes) -> FastAPI:
    """The whole service."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        watched = Watched(cluster)
        slots = asyncio.Semaphore(options.uploads_at_a_time)
        app.state.gateway = Gateway(
            options, cluster, watched, Tokens(options.tokens), Pace(options.requests_per_minute), slots
        )
        watched.start()
        yield

    app = FastAPI(
        title="sixview",
        version=metadata.version("sixview"),
        summary="Six views and six depth renders of an object in, a textured mesh out.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    errors.install(app)
    app.openapi = partial(described, app.openapi)  # type: ignore[method-assign]
    app.include_router(router)
    app.include_router(router, prefix="/api", include_in_schema=False)
    for prefix in ("", "/api"):  # clients of the API before this one end it with a slash
        app.add_api_route(f"{prefix}/jobs/", submit, methods=["POST"], include_in_schema=False)
        app.add_api_route(f"{prefix}/jobs/", listing, methods=["GET"], include_in_schema=False)
    service(app)
    if options.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.origins), allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(metrics.Measured)
    app.add_middleware(Secured)
    return app


def described(original: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """FastAPI's own description, without the errors of its own that it adds wherever there is a parameter: ours are told route by
    route."""
    found = original()
    for operation in (operation for path in found["paths"].values() for operation in path.values()):
        if "HTTPValidationError" in str(operation["responses"].get("422")):
            del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        found["components"]["schemas"].pop(name, None)
    order = Order.model_json_schema()
    found["components"]["schemas"]["Order"] = order
    return found


class Secured:
    """Adds SECURITY's headers to every answer. Plain ASGI: nothing of a body is held."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                more = [
                    (k.lower().encode(), v.encode()) for k, v in SECURITY.items() if k.lower().encode() not in given
                ]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self.app(scope, receive, sending if scope["type"] == "http" else send)
