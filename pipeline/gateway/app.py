"""The service: its routes, its page, and what is there without a token."""

from __future__ import annotations

import asyncio
import os
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

from pipeline.clients.kubernetes import Kubernetes
from pipeline.gateway import errors, health, metrics, routes, submit
from pipeline.gateway.dependencies import Gateway, Options, Shared
from pipeline.gateway.informer import Watched
from pipeline.gateway.tokens import Pace, Tokens
from pipeline.gateway.uploads import MOST_TEXT
from pipeline.jobs import ids

WEB = Path(__file__).parent.parent / "web"
SECURITY = {
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


def service(app: FastAPI) -> None:
    """What is there without a token."""

    @app.get(
        "/health",
        response_model=Healthy,
        summary="Whether jobs can be taken and done",
        responses={503: {"description": "Something is away", "model": Healthy}},
    )
    @app.get("/api/health", include_in_schema=False)
    async def healthy(request: Request, shared: Shared) -> Any:
        """With a token also the names of nodes and bucket."""
        found = await run_in_threadpool(health.look, shared.cluster, shared.watched)
        known = shared.tokens.client(request.headers.get("authorization", ""))
        found = health.shown(found, details=known is not None)
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
        if not os.environ.get(ids.KEY_VARIABLE):
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
        default_response_class=errors.Json,
    )
    errors.install(app)
    app.openapi = partial(described, app.openapi)  # type: ignore[method-assign]
    for prefix in ("", "/api"):
        for part in (submit.router, routes.router):
            app.include_router(part, prefix=prefix, include_in_schema=not prefix)
    for prefix in ("", "/api"):  # clients of the API before this one end it with a slash
        app.add_api_route(f"{prefix}/jobs/", submit.submit, methods=["POST"], include_in_schema=False)
        app.add_api_route(f"{prefix}/jobs/", routes.listing, methods=["GET"], include_in_schema=False)
    service(app)
    if options.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.origins), allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(Small)
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
    order = submit.Order.model_json_schema()
    found["components"]["schemas"]["Order"] = order
    return found


class Small:
    """Lets no body but that of a submission, which is counted there, be larger than MOST_TEXT: FastAPI would hold it whole."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        size = 0

        async def receiving() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > MOST_TEXT:
                raise HTTPException(413, "The request is too large")
            return message

        is_small = scope["type"] == "http" and not scope["path"].rstrip("/").endswith("/jobs")
        await self.app(scope, receiving if is_small else receive, send)


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
