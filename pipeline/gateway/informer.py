"""An informer: a cache of all jobs' statuses, kept up to date by list and watch.

It stores each job's status, about 1 kB, and resourceVersion. A list reads metadata, page by page; a workflow is read in full only
if its metadata is not enough and its resourceVersion has changed. A watch resumes where the last one ended; after 410 Gone the
list is repeated."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter

from pipeline.clients import reading, workflows
from pipeline.clients.kubernetes import SELECTOR, Expired, Kubernetes
from pipeline.clients.workflows import NAME_PREFIX
from pipeline.jobs import status
from pipeline.jobs.status import JobStatus, Workflow

WATCH_SECONDS = 240
STALE_SECONDS = 30.0  # of failing requests, after which the cache is reported as unhealthy


class JobInformer(threading.Thread):
    """The thread that lists and watches. jobs: id -> status."""

    def __init__(self, cluster: Kubernetes) -> None:
        super().__init__(daemon=True, name="watch")
        self.cluster = cluster
        self.jobs: dict[str, JobStatus] = {}
        self.versions: dict[str, int] = {}  # workflow name -> resourceVersion
        self.watch_from = ""  # resourceVersion to watch from; "": list first
        self.has_listed = False  # whether the first list is complete
        self.failing_since: float | None = time.monotonic()

    # -- queries ------------------------------------------------------------------------------------------------------

    def get(self, job: str) -> JobStatus | None:
        job_status = self.jobs.get(job)
        return (
            status.with_queue(job_status, list(self.jobs.values()))
            if job_status and job_status["status"] == "queued"
            else job_status
        )

    def counts(self) -> Counter[str]:
        """Number of jobs by status."""
        return Counter(job_status["status"] for job_status in list(self.jobs.values()))

    def active_of(self, owner: str) -> int:
        """Number of an owner's unfinished jobs."""
        return sum(v["owner"] == owner and v["status"] in ("queued", "processing") for v in list(self.jobs.values()))

    def is_healthy(self) -> bool:
        """Whether the first list is complete and the watch has not been failing for STALE_SECONDS."""
        is_fresh = self.failing_since is None or time.monotonic() - self.failing_since < STALE_SECONDS
        return self.has_listed and is_fresh

    # -- changes --------------------------------------------------------------------------------------------------------

    def apply(self, workflow: Workflow, deleted: bool = False) -> JobStatus:
        """Updates the cache from a workflow and returns its status. Ignores versions older than the cached one: a watch event may
        arrive after the response to a patch."""
        parsed = workflows.read(workflow)
        name, version, job_status = parsed["metadata"]["name"], resource_version(parsed), status.of_workflow(parsed)
        job = job_status["job_id"]
        if version < self.versions.get(name, 0):
            return self.jobs.get(job, job_status)
        self.versions[name] = version
        if status.is_job(parsed):
            self.jobs[job] = job_status
        if deleted:
            self._delete(name)
        return job_status

    def add(self, job_status: JobStatus) -> None:
        """Caches a job that this process has just submitted: it counts before its watch event arrives."""
        self.versions.setdefault(NAME_PREFIX + job_status["job_id"], 0)  # older than any: the next listing decides
        self.jobs.setdefault(job_status["job_id"], job_status)

    def run(self) -> None:
        while True:
            try:
                self._sync()
            except Expired:
                self.watch_from = ""
            except Exception as error:  # retried after a second
                self.failing_since = self.failing_since or time.monotonic()
                print(f"the watch ended: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                time.sleep(1)

    def _sync(self) -> None:
        """Lists, if necessary, and applies one watch's events."""
        if not self.watch_from:
            self.watch_from = self._list()
            self.has_listed = True
        events = self.cluster.watch(SELECTOR, self.watch_from, WATCH_SECONDS)
        self.failing_since = None
        for kind, workflow in events:
            if kind != "BOOKMARK":
                self._apply(workflow, deleted=kind == "DELETED")
            version = resource_version(workflow)
            self.watch_from = str(version) if version else self.watch_from

    def _list(self) -> str:
        """Applies changed workflows and removes deleted ones. Returns the list's resourceVersion."""
        names, incomplete, version = set(), [], ""
        for page in self.cluster.pages(SELECTOR, full=False):
            version = page.resource_version
            for metadata_only in page.items:
                name = workflows.read(metadata_only)["metadata"]["name"]
                names.add(name)
                if self.versions.get(name) == resource_version(metadata_only):
                    continue
                if status.of_annotation(metadata_only):
                    self._apply(metadata_only)
                else:
                    incomplete.append(name)
        for name in incomplete:
            whole = self.cluster.get(name)
            if whole:
                self._apply(whole)
        for name in [n for n, known in self.versions.items() if n not in names and known <= int(version or 0)]:
            self._delete(name)
        return version

    def _apply(self, workflow: Workflow, deleted: bool = False) -> None:
        """`apply`, logging exceptions: one malformed workflow must not affect others."""
        try:
            self.apply(workflow, deleted)
        except Exception as error:
            print(f"a workflow could not be read: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    def _delete(self, name: str) -> None:
        self.versions.pop(name, None)
        self.jobs.pop(status.job_of(name), None)


def resource_version(workflow: Workflow) -> int:
    """metadata.resourceVersion, which increases with every change in the cluster; 0 where it is missing."""
    return reading.integer(reading.mapping(reading.mapping(workflow).get("metadata")).get("resourceVersion"))
