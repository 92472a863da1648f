"""Prometheus metrics at /metrics. No label has job ids or token names, which would be unbounded."""

from __future__ import annotations

import time
from collections import Counter as Count
from typing import Any

from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

from pipeline.jobs.status import STATUSES

REQUESTS = Counter("sixview_requests_total", "Requests, by route, method and status", ["route", "method", "status"])
SECONDS = Histogram("sixview_request_seconds", "Seconds until the answer began", ["route"])
UPLOADS = Gauge("sixview_uploads_in_progress", "Uploads that are being read")
UPLOADED = Counter("sixview_uploaded_bytes_total", "Bytes of sets that arrived")
JOBS = Gauge("sixview_jobs", "Jobs that the cluster knows, by status", ["status"])

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")  # other methods are counted without a label


def page(counts: Count[str]) -> Response:
    for status in STATUSES:
        JOBS.labels(status).set(counts[status])
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


class RequestMetrics:
    """ASGI middleware: counts and times requests by route template, not by path, which contains job ids."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()

        async def measured_send(message: Any) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                method = scope["method"] if route != "other" and scope["method"] in METHODS else ""
                REQUESTS.labels(route, method, str(message["status"])).inc()
                SECONDS.labels(route).observe(time.perf_counter() - started)
            await send(message)

        await self.app(scope, receive, measured_send)
