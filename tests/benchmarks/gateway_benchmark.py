"""The gateway under load: many uploads at once, and what questions cost meanwhile. On the cluster of `make cluster`.

The gateway is a process of this machine, so that its own memory can be read; its jobs are of a template that does nothing."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import tempfile
import threading
import time
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from pipeline.clients import s3
from tests.benchmarks.records import Run
from tests.cluster import client, web
from tests.cluster.node import kubectl
from tests.cluster.places import NAMESPACE
from tests.cluster.web import png

TEMPLATE = "sixview-idle"
BOUNDARY = b"----------------sixview"
CHUNK = 1 << 16


@dataclass
class Measured:
    """jobs: those that were accepted; growth: of the gateway's resident memory in MiB; waits: seconds for each question."""

    jobs: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    seconds: float = 0.0
    growth: float = 0.0
    waits: list[float] = field(default_factory=list)


def main(run: Run) -> None:
    uploads, megabytes, rate = run.size((100, 2.0, 50), (12, 0.2, 20))
    measured = measure(uploads, megabytes, rate)
    total, outcome = uploads * 12 * megabytes, (measured.jobs, measured.refused, measured.lost)
    row = [*map(len, outcome), measured.seconds, total / measured.seconds, measured.growth]
    run.table(f"{uploads} uploads of 12 x {megabytes:g} MB at once", UPLOADS, [row])
    waits = sorted(1000 * seconds for seconds in measured.waits)
    middle = waits[len(waits) // 2], waits[int(0.95 * len(waits))], waits[-1]
    run.table(f"GET /jobs/{{id}} meanwhile, {rate} times a second", ASKED, [[len(waits), *middle]])


UPLOADS = ("accepted", "refused", "lost", "together, s", "speed, MB/s", "the gateway's memory grew by, MiB")
ASKED = ("questions", "median, ms", "p95, ms", "slowest, ms")


def measure(uploads: int, megabytes: float, rate: float) -> Measured:
    """Uploads that many sets at once and asks that often meanwhile; afterwards everything is taken away again."""
    client.connect_to_store()
    idle_template()
    measured = Measured()
    with (
        tempfile.TemporaryDirectory() as folder,
        web.serving(
            Path(folder), "--jobs-per-token", "100000", "--requests-per-minute", "1000000", template=TEMPLATE
        ) as session,
    ):
        pid = int((Path(folder) / ".pid").read_text())
        body = form(megabytes)
        measured.jobs += asyncio.run(flood(session, body, 2, Measured()))  # warm: everything is loaded now
        before = resident(pid)
        begin = time.perf_counter()
        with Memory(pid) as memory, Questions(session, measured.jobs[0], rate) as questions:
            measured.jobs += asyncio.run(flood(session, body, uploads, measured))
        measured.seconds = time.perf_counter() - begin
        measured.growth, measured.waits = memory.most - before, questions.waits
        measured.lost = [job for job in measured.jobs if not whole(job, len(body))]
    for job in measured.jobs:
        kubectl("-n", NAMESPACE, "delete", "workflow", web.workflow_of(job), "--wait=false", check=False)
        s3.purge(f"{s3.INPUTS}{job}.")
    measured.jobs = measured.jobs[2:]
    return measured


def idle_template() -> None:
    """The parameters of the real template, and one step that waits for ever."""
    text = kubectl("-n", NAMESPACE, "get", "workflowtemplate", "sixview-cpu", "-o", "json").stdout
    template = json.loads(text)
    template["metadata"] = {"name": TEMPLATE}
    arguments = template["spec"]["arguments"]
    template["spec"] = {"entrypoint": "idle", "arguments": arguments, "templates": [{"name": "idle", "suspend": {}}]}
    kubectl("-n", NAMESPACE, "apply", "--server-side", "-f", "-", given=json.dumps(template))


def form(megabytes: float) -> bytes:
    """A request with twelve pictures. What is in them is noise: the gateway looks at their first bytes alone."""
    picture = png(1024, 1024, random.Random(0).randbytes(int(megabytes * 1e6)))
    data = b""
    for name in ("views", "depth_renders"):
        for view in web.VIEWS:
            head = f'Content-Disposition: form-data; name="{name}"; filename="{view}.png"'.encode()
            data += b"--" + BOUNDARY + b"\r\n" + head + b"\r\n\r\n" + picture + b"\r\n"
    return data + b"--" + BOUNDARY + b"--\r\n"


async def flood(session: httpx.Client, body: bytes, count: int, measured: Measured) -> list[str]:
    """All of them at once, each on a connection of its own."""
    jobs = []
    for status, answer in await asyncio.gather(*(send(session, body) for _ in range(count))):
        if status == 200:
            jobs.append(str(answer["job_id"]))
        else:
            measured.refused.append(f"{status} {answer}")
    return jobs


async def send(session: httpx.Client, body: bytes) -> tuple[int, dict[str, Any]]:
    where = urlsplit(str(session.base_url))
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    head = (
        f"POST /jobs HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer token-of-alice\r\nConnection: close\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode())
    for start in range(0, len(body), CHUNK):
        writer.write(body[start : start + CHUNK])
        await writer.drain()
    answer = await reader.read()
    writer.close()
    top, _, content = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(content)


def whole(job: str, size: int) -> bool:
    """Whether all twelve files lie in the store, with all their bytes, and the workflow is there."""
    listed = list(s3.listed(f"{s3.INPUTS}{job}."))
    there = kubectl("-n", NAMESPACE, "get", "workflow", web.workflow_of(job), check=False).returncode == 0
    return there and len(listed) == 12 and 0 <= size - sum(o["Size"] for o in listed) < 3000


def resident(pid: int) -> float:
    """MiB of a process's own memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


class Memory(threading.Thread):
    """The most memory that a process had within a with statement."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.most, self.over = pid, resident(pid), threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.05):
            self.most = max(self.most, resident(self.pid))

    def __enter__(self) -> Memory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


class Questions:
    """Asks for a job's status so many times a second, from a process of its own, which has had its first answer when the with
    statement begins: its start takes seconds, a small flood does not."""

    def __init__(self, session: httpx.Client, job: str, rate: float) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.waits: list[float] = []
        self.answers: Queue[list[float]] = spawn.Queue()
        self.begun, self.over = spawn.Event(), spawn.Event()
        given = (str(session.base_url), job, rate, self.begun, self.over, self.answers)
        self.process = spawn.Process(target=asking, args=given, daemon=True)

    def __enter__(self) -> Questions:
        self.process.start()
        assert self.begun.wait(timeout=60), "no question was answered within a minute"
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.waits = self.answers.get(timeout=60)
        self.process.join(timeout=60)


def asking(base: str, job: str, rate: float, begun: Any, over: Any, answers: Queue[list[float]]) -> None:
    answers.put(asyncio.run(_asking(base, job, rate, begun, over)))


async def _asking(base: str, job: str, rate: float, begun: Any, over: Any) -> list[float]:
    """At fixed times, whether the answers before have come or not."""
    waits: list[float] = []
    headers = {"Authorization": "Bearer token-of-alice"}
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=60) as session:

        async def one() -> None:
            began = time.perf_counter()
            (await session.get(f"/jobs/{job}")).raise_for_status()
            waits.append(time.perf_counter() - began)

        await one()
        begun.set()
        waits.clear()
        tasks, begin = [], time.perf_counter()
        while not tasks or not over.is_set():
            tasks.append(asyncio.create_task(one()))
            await asyncio.sleep(max(0.0, begin + len(tasks) / rate - time.perf_counter()))
        await asyncio.gather(*tasks)
    return waits
