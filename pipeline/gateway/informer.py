"""The jobs of the cluster, kept up to date by a watch: so a question costs the API server nothing.

Of a workflow only its view is kept, about a kilobyte, and its version. A listing brings metadata alone, page by page; a workflow
is read whole only where its metadata is not enough, one at a time, and where its version has changed since it was last read. A
watch that ended goes on where it was; only after one that expired is there another listing."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter

from pipeline.clients import reading, workflows
from pipeline.clients.kubernetes import SELECTOR, Expired, Kubernetes
from pipeline.jobs import status
from pipeline.jobs.status import JobStatus, Workflow

WATCH_SECONDS = 240
PATIENCE_SECONDS = 30.0  # without a word from the API server, after which we are not well


class Watched(threading.Thread):
    """job -> view. jobs, get, counts and active_of answer; see takes in a workflow; is_well: whether the answers are fresh."""

    def __init__(self, cluster: Kubernetes) -> None:
        super().__init__(daemon=True, name="watch")
        self.cluster = cluster
        self.jobs: dict[str, JobStatus] = {}
        self.versions: dict[str, int] = {}  # resourceVersion of each workflow that was read, by its name
        self.since = ""  # the version from which to watch on; empty: a listing comes first
        self.complete = False  # whether a first listing has come to its end
        self.trouble_since: float | None = time.monotonic()

    # -- questions ------------------------------------------------------------------------------------------------------

    def get(self, job: str) -> JobStatus | None:
        job_status = self.jobs.get(job)
        return (
            status.with_queue(job_status, list(self.jobs.values()))
            if job_status and job_status["status"] == "queued"
            else job_status
        )

    def counts(self) -> Counter[str]:
        """How many jobs there are of each status."""
        return Counter(job_status["status"] for job_status in list(self.jobs.values()))

    def active_of(self, owner: str) -> int:
        """Jobs of one owner that have not ended."""
        return sum(v["owner"] == owner and v["status"] in ("queued", "processing") for v in list(self.jobs.values()))

    def is_well(self) -> bool:
        """Whether every job is known, and the API server has told of changes of late."""
        fresh = self.trouble_since is None or time.monotonic() - self.trouble_since < PATIENCE_SECONDS
        return self.complete and fresh

    # -- changes --------------------------------------------------------------------------------------------------------

    def see(self, workflow: Workflow, gone: bool = False) -> JobStatus:
        """Takes a workflow as it is now. What the watch brings late does not undo what an answer has shown already."""
        read = workflows.read(workflow)
        name, version, job_status = read["metadata"]["name"], version_of(read), status.of_workflow(read)
        job = job_status["job_id"]
        if version < self.versions.get(name, 0):
            return self.jobs.get(job, job_status)
        self.versions[name] = version
        if status.is_job(read):
            self.jobs[job] = job_status
        if gone:
            self._forget(name)
        return job_status

    def run(self) -> None:
        while True:
            try:
                self._follow()
            except Expired:
                self.since = ""
            except Exception as error:  # whatever it was, the next try may succeed
                self.trouble_since = self.trouble_since or time.monotonic()
                print(f"the watch ended: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                time.sleep(1)

    def _follow(self) -> None:
        """The changes of some minutes; before them a listing where none has been, or where the changes since are lost."""
        if not self.since:
            self.since = self._list()
            self.complete = True
        events = self.cluster.watch(SELECTOR, self.since, WATCH_SECONDS)
        self.trouble_since = None
        for kind, workflow in events:
            if kind != "BOOKMARK":
                self._take(workflow, gone=kind == "DELETED")
            version = version_of(workflow)
            self.since = str(version) if version else self.since

    def _list(self) -> str:
        """Reads what has changed since it was last read, and forgets what is gone. Returns the version of the listing."""
        there, lacking, version = set(), [], ""
        for page in self.cluster.pages(SELECTOR, full=False):
            version = page.resource_version
            for head in page.items:
                name = workflows.read(head)["metadata"]["name"]
                there.add(name)
                if self.versions.get(name) == version_of(head):
                    continue
                if status.of_annotation(head):
                    self._take(head)
                else:
                    lacking.append(name)
        for name in lacking:
            whole = self.cluster.get(name)
            if whole:
                self._take(whole)
        for name in [n for n, seen in self.versions.items() if n not in there and seen <= int(version or 0)]:
            self._forget(name)
        return version

    def _take(self, workflow: Workflow, gone: bool = False) -> None:
        """As `see`; whatever one workflow does to us, the others are still taken."""
        try:
            self.see(workflow, gone)
        except Exception as error:
            print(f"a workflow could not be read: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    def _forget(self, name: str) -> None:
        self.versions.pop(name, None)
        self.jobs.pop(status.job_of(name), None)


def version_of(workflow: Workflow) -> int:
    """Grows with every change of anything in the cluster."""
    return reading.integer(reading.mapping(reading.mapping(workflow).get("metadata")).get("resourceVersion"))
