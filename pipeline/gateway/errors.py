"""Error responses of the API: {"error": {"code", "message", "details", "suggestion"}} and the HTTP status of each error class."""

from __future__ import annotations

import math
import sys
import traceback
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from steps.io.input_set import sanitize
from steps.runtime.errors import (
    BadInput,
    ClusterUnavailable,
    JobExpired,
    JobNotFound,
    JobNotReady,
    OutsideError,
    StepError,
    StorageUnavailable,
    UnknownError,
    ValidationFailed,
)


class Unauthorized(OutsideError):
    code = "UNAUTHORIZED"
    advice = "Send the header `Authorization: Bearer <token>` with a token that this service knows."


class RateLimited(OutsideError):
    code = "RATE_LIMITED"
    advice = "Wait for the seconds that Retry-After says, or until some of your jobs have ended."


class NotFound(OutsideError):
    code = "NOT_FOUND"
    advice = "See /docs for what there is."


class RequestTooLarge(OutsideError):
    code = "REQUEST_TOO_LARGE"
    advice = "Send twelve files of at most 20 MB each, and nothing else."


STATUS: dict[type[StepError], int] = {
    Unauthorized: 401,
    NotFound: 404,
    JobNotFound: 404,
    JobNotReady: 409,
    JobExpired: 410,
    RequestTooLarge: 413,
    BadInput: 422,
    RateLimited: 429,
    ClusterUnavailable: 503,
    StorageUnavailable: 503,
}


def status_of(error: StepError) -> int:
    """HTTP status of an error, by its most derived class in STATUS; 500 for others."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


class SafeJSONResponse(JSONResponse):
    """JSON response that replaces NaN, infinities and lone surrogates, which records and workflows may contain."""

    def render(self, content: Any) -> bytes:
        try:
            return super().render(content)
        except ValueError:  # NaN or a lone surrogate
            return super().render(_encodable(content))


def _encodable(value: Any) -> Any:
    if isinstance(value, dict):
        return {sanitize(k): _encodable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return sanitize(value) if isinstance(value, str) else value


def error_response(error: StepError, status: int = 0) -> JSONResponse:
    status = status or status_of(error)
    headers = {"Cache-Control": "no-store"}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if "retry_after" in error.details:
        headers["Retry-After"] = str(error.details["retry_after"])
    return SafeJSONResponse({"error": error.record()}, status, headers)


def install(app: FastAPI) -> None:
    """Adds exception handlers for StepError, FastAPI's and Starlette's exceptions, boto3's, and all others."""
    from botocore.exceptions import BotoCoreError, ClientError

    @app.exception_handler(StepError)
    async def ours(_request: Request, error: StepError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        faults = [{"field": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors()]
        first = (
            f"{faults[0]['field']}: {faults[0]['message']}"
            if faults
            else "It does not have the form that is asked for."
        )
        return error_response(
            ValidationFailed(f"The request is not valid. {first}", "See /docs for its form.", faults=faults)
        )

    @app.exception_handler(HTTPException)
    async def starlette(_request: Request, error: HTTPException) -> JSONResponse:
        record = {**NotFound(str(error.detail) + ".").record(), "code": _code(error.status_code)}
        return SafeJSONResponse({"error": record}, error.status_code, error.headers)

    async def store(_request: Request, error: Exception) -> JSONResponse:
        print(f"S3: {sanitize(error)}", file=sys.stderr, flush=True)
        return error_response(StorageUnavailable("The S3 store did not answer as it should.", "Try again in a moment."))

    app.add_exception_handler(BotoCoreError, store)
    app.add_exception_handler(ClientError, store)

    @app.exception_handler(Exception)
    async def unknown(_request: Request, error: Exception) -> JSONResponse:
        traceback.print_exception(error)
        return error_response(UnknownError("Something went wrong in this service.", "Try again; its log says more."))


def _code(status: int) -> str:
    return {404: "NOT_FOUND", 413: "REQUEST_TOO_LARGE", 405: "METHOD_NOT_ALLOWED", 400: "BAD_REQUEST"}.get(
        status, "HTTP_ERROR"
    )


def documented(*kinds: type[StepError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI `responses` of these errors, by HTTP status."""
    entries: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        status = status_of(kind(""))
        description = entries.get(status, {}).get("description", "")
        entries[status] = {"description": ", ".join(filter(None, [description, kind.code])), "model": None}
    return {status: {"description": entry["description"], "content": _SCHEMA} for status, entry in entries.items()}


_SCHEMA = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "required": ["code", "message", "details", "suggestion"],
                    "properties": {
                        "code": {"type": "string"},
                        "message": {"type": "string"},
                        "details": {"type": "object"},
                        "suggestion": {"type": "string"},
                    },
                }
            },
        }
    }
}
