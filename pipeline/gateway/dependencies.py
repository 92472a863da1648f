"""What the routes share: the installation, who asks, and the jobs that they may see."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from pipeline.clients.kubernetes import Kubernetes
from pipeline.gateway.errors import RateLimited, Unauthorized
from pipeline.gateway.informer import Watched
from pipeline.gateway.tokens import Client, Pace, Tokens
from pipeline.jobs import service
from pipeline.jobs.status import JobStatus
from steps.runtime.errors import ClusterUnavailable, JobNotFound, StorageUnavailable

AWAY = (ClusterUnavailable, StorageUnavailable)


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
            self.known = await run_in_threadpool(service.template_parameters, self.cluster, self.options.template)
            self.known_at = time.monotonic()
        return self.known


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


async def find(shared: Gateway, asker: Client, job: str) -> JobStatus:
    """A job that the asker may see. Somebody else's is as unknown as none."""
    job = service.check_id(job)
    job_status = shared.watched.get(job)
    if job_status is None:
        job_status = await run_in_threadpool(service.find, shared.cluster, job)
    if not asker.may_see(job_status["owner"]):
        raise JobNotFound(f"There is no job {job}.")
    return job_status
