"""FastAPI dependencies of the routes: the gateway's state, the authenticated principal, and access to jobs."""

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
from pipeline.gateway.informer import JobInformer
from pipeline.gateway.tokens import Principal, RateLimiter, Tokens
from pipeline.jobs import service
from pipeline.jobs.status import JobStatus
from steps.runtime.errors import ClusterUnavailable, JobNotFound, StorageUnavailable

UNAVAILABLE = (ClusterUnavailable, StorageUnavailable)


@dataclass(frozen=True)
class Options:
    """Options of `sixview serve`. tokens: folder with the tokens' digests; None: no authentication."""

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
    """State of the application, shared by all requests."""

    options: Options
    cluster: Kubernetes
    informer: JobInformer
    tokens: Tokens
    rate_limiter: RateLimiter
    upload_slots: asyncio.Semaphore
    uploads_waiting: int = 0
    template_parameters: dict[str, Any] = field(default_factory=dict)
    parameters_at: float = float("-inf")

    async def parameters(self) -> dict[str, Any]:
        """Parameters of the WorkflowTemplate by name, cached for a minute."""
        if time.monotonic() - self.parameters_at > 60:
            self.template_parameters = await run_in_threadpool(
                service.template_parameters, self.cluster, self.options.template
            )
            self.parameters_at = time.monotonic()
        return self.template_parameters


def gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


async def principal(request: Request, gateway: Annotated[Gateway, Depends(gateway_of)]) -> Principal:
    """The principal of the request's token. Raises Unauthorized, RateLimited."""
    authenticated = gateway.tokens.principal(request.headers.get("authorization", ""))
    if authenticated is None:
        raise Unauthorized("There is no token, or one that is not known here.")
    delay = gateway.rate_limiter.wait(authenticated.name)
    if delay:
        raise RateLimited("There are too many requests with this token.", retry_after=max(1, round(delay)))
    return authenticated


CurrentGateway = Annotated[Gateway, Depends(gateway_of)]
CurrentPrincipal = Annotated[Principal, Depends(principal)]


async def find(gateway: Gateway, principal: Principal, job: str) -> JobStatus:
    """Status of a job of this principal. Raises JobNotFound, also for other principals' jobs."""
    job = service.check_id(job)
    job_status = gateway.informer.get(job)
    if job_status is None:
        job_status = await run_in_threadpool(service.find, gateway.cluster, job)
    if not principal.may_see(job_status["owner"]):
        raise JobNotFound(f"There is no job {job}.")
    return job_status
