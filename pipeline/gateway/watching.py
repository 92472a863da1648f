"""The jobs of the cluster, kept up to date by a watch: so a question costs the API server nothing."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter

from pipeline import views
from pipeline.clusters import OURS, Kubernetes
from pipeline.views import View, Workflow

WATCH_SECONDS = 240
PATIENCE_SECONDS = 30.0  # without a word from the API server, after which we are not well


class Watched(threading.Thread):
    """job -> view. It begins with a list, then follows the changes; after any trouble it begins anew."""

    def __init__(self, cluster: Kubernetes) -> None:
        super().__init__(daemon=True, name="watch")
        self.cluster = cluster
        self.jobs: dict[str, View] = {}
        self.versions: dict[str, int] = {}  # resourceVersion of each
        self.trouble_since: float | None = time.monotonic()

    def run(self) -> None:
        while True:
            try:
                self._follow()
            except Exception as error:  # whatever it was, the next list may succeed
                self.trouble_since = self.trouble_since or time.monotonic()
                print(f"the watch ended: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                time.sleep(1)

    def _follow(self) -> None:
        found, version = self.cluster.listing(OURS)
        fresh = [(views.view(workflow), _version(workflow)) for workflow in found if views.is_job(workflow)]
        self.jobs = {view["job_id"]: view for view, _ in fresh}
        self.versions = {view["job_id"]: number for view, number in fresh}
        self.trouble_since = None
        for kind, workflow in self.cluster.watch(OURS, version, WATCH_SECONDS):
            if kind == "ERROR":
                return
            if views.is_job(workflow):
                self.see(workflow, gone=kind == "DELETED")

    def see(self, workflow: Workflow, gone: bool = False) -> View:
        """Takes a workflow as it is now. What the watch brings late does not undo what an answer has shown already."""
        view, version = views.view(workflow), _version(workflow)
        job = view["job_id"]
        if version < self.versions.get(job, 0):
            return self.jobs.get(job, view)
        self.versions[job] = version
        self.jobs[job] = view
        if gone:
            self.jobs.pop(job)
            self.versions.pop(job)
        return view

    def get(self, job: str) -> View | None:
        view = self.jobs.get(job)
        return views.with_queue(view, list(self.jobs.values())) if view and view["status"] == "queued" else view

    def is_well(self) -> bool:
        return self.trouble_since is None or time.monotonic() - self.trouble_since < PATIENCE_SECONDS

    def counts(self) -> Counter[str]:
        """How many jobs there are of each status."""
        return Counter(view["status"] for view in list(self.jobs.values()))

    def active_of(self, owner: str) -> int:
        """Jobs of one owner that have not ended."""
        return sum(v["owner"] == owner and v["status"] in ("queued", "processing") for v in list(self.jobs.values()))


def _version(workflow: Workflow) -> int:
    """Grows with every change of anything in the cluster."""
    return int(workflow["metadata"]["resourceVersion"])
