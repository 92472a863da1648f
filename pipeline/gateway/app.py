"""The FastAPI application: routers, middleware, and the routes without authentication."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from pipeline.clients import environment
from pipeline.clients.kubernetes import Kubernetes
from pipeline.gateway import errors, health, metrics, routes, submit
from pipeline.gateway.dependencies import CurrentGateway, Gateway, Options
from pipeline.gateway.informer import JobInformer
from pipeline.gateway.tokens import RateLimiter, Tokens
from pipeline.gateway.uploads import MAX_TEXT
from pipeline.jobs import ids

WEB = Path(__file__).parent.parent / "web"
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' blob: data:; worker-src 'self' blob:; frame-ancestors 'none'",
}


class Healthy(BaseModel):
    status: str
    version: str
    cluster: dict[str, Any]
    s3: dict[str, Any]
    queue: dict[str, int]
    gpus: list[dict[str, Any]] | None


def add_public_routes(app: FastAPI) -> None:
    """Adds the routes without authentication: health, metrics, OpenAPI page, web page."""

    @app.get(
        "/health",
        response_model=Healthy,
        summary="Whether jobs can be taken and done",
        responses={503: {"description": "Something is away", "model": Healthy}},
    )
    @app.get("/api/health", include_in_schema=False)
    async def healthy(request: Request, gateway: CurrentGateway) -> Any:
        """With a token also the names of nodes and bucket."""
        report = await run_in_threadpool(health.health_report, gateway.cluster, gateway.informer)
        principal = gateway.tokens.principal(request.headers.get("authorization", ""))
        report = health.redacted(report, details=principal is not None)
        return JSONResponse(report, 200 if report["status"] == "healthy" else 503)

    @app.get("/live", include_in_schema=False)
    async def live() -> dict[str, str]:
        return {"status": "alive", "at": datetime.now(UTC).isoformat(timespec="seconds")}

    @app.get("/metrics", include_in_schema=False)
    async def measured(gateway: CurrentGateway) -> Response:
        return metrics.page(gateway.informer.counts())

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
    """The FastAPI application of an installation. Raises ConfigurationError for a setting that cannot be used."""
    environment.store()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        informer = JobInformer(cluster)
        slots = asyncio.Semaphore(options.uploads_at_a_time)
        app.state.gateway = Gateway(
            options, cluster, informer, Tokens(options.tokens), RateLimiter(options.requests_per_minute), slots
        )
        informer.start()
        if not environment.cluster().sixview_id_key:
            print(
                f"{ids.KEY_VARIABLE} is not set: an Idempotency-Key is known until this process ends.",
                file=sys.stderr,
                flush=True,
            )
        yield

    app = FastAPI(
        title="sixview",
        version=metadata.version("sixview"),
        summary="Six views and six depth renders of an object in, a textured mesh out.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        default_response_class=errors.SafeJSONResponse,
    )
    errors.install(app)
    app.openapi = partial(openapi_schema, app.openapi)  # type: ignore[method-assign]
    for prefix in ("", "/api"):
        for router in (submit.router, routes.router):
            app.include_router(router, prefix=prefix, include_in_schema=not prefix)
    for prefix in ("", "/api"):  # clients of an earlier API use a trailing slash
        app.add_api_route(f"{prefix}/jobs/", submit.submit, methods=["POST"], include_in_schema=False)
        app.add_api_route(f"{prefix}/jobs/", routes.listing, methods=["GET"], include_in_schema=False)
    add_public_routes(app)
    if options.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.origins), allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(BodyLimit)
    app.add_middleware(metrics.RequestMetrics)
    app.add_middleware(SecurityHeaders)
    return app


def openapi_schema(generate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """FastAPI's OpenAPI schema without its default 422 responses: each route documents its own errors."""
    schema = generate()
    for operation in (operation for path in schema["paths"].values() for operation in path.values()):
        if "HTTPValidationError" in str(operation["responses"].get("422")):
            del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)
    request_schema = submit.JobRequest.model_json_schema()
    schema["components"]["schemas"]["Order"] = request_schema
    return schema


class BodyLimit:
    """ASGI middleware: 413 for bodies above MAX_TEXT, which FastAPI would read into memory. Not for submissions, which are
    streamed and have their own limit."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        size = 0

        async def limited_receive() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MAX_TEXT:
                raise HTTPException(413, "The request is too large")
            return message

        is_limited = scope["type"] == "http" and not scope["path"].rstrip("/").endswith("/jobs")
        await self.app(scope, limited_receive if is_limited else receive, send)


class SecurityHeaders:
    """ASGI middleware: adds SECURITY_HEADERS to every response, without buffering bodies."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message["headers"]}
                added = [
                    (k.lower().encode(), v.encode())
                    for k, v in SECURITY_HEADERS.items()
                    if k.lower().encode() not in names
                ]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)
