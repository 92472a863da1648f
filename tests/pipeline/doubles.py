"""In-memory doubles of S3, with versions, and of a namespace's workflows."""

from __future__ import annotations

import copy
import hashlib
import io
import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.clients import s3
from pipeline.clients.kubernetes import Conflict, Page
from steps.runtime.options import JOB_OPTIONS

START = datetime(2026, 1, 1, tzinfo=UTC)
PARAMETERS: list[dict[str, Any]] = [
    {"name": "input"},
    *(
        {"name": name, "enum": [choice for choice in option.choices if choice != "both"]}
        for name, option in JOB_OPTIONS.items()
    ),
]


def client_error(code: str, operation: str = "GetObject") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, operation)


class Bucket:
    """A boto3 client for one bucket, as far as `clients.s3` uses it. requests: number by operation; refused: key -> S3 error code
    of requests for it; away: every request fails."""

    class exceptions:  # noqa: N801 - as boto3 has it
        ClientError = ClientError

    def __init__(self) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {}  # the newest last
        self.moments = itertools.count()
        self.requests: Counter[str] = Counter()
        self.refused: dict[str, str] = {}
        self.away = False

    def _count(self, operation: str, key: str = "") -> None:
        self.requests[operation] += 1
        if self.away:
            raise client_error("InternalError", operation)
        if key in self.refused:
            raise client_error(self.refused[key], operation)

    def put_object(self, Key: str, Body: Any = b"", **_: Any) -> dict[str, Any]:  # noqa: N803
        self._count("put", Key)
        data = Body if isinstance(Body, bytes) else Body.read()
        number = next(self.moments)
        version = {
            "Key": Key,
            "ETag": f'"{hashlib.md5(data).hexdigest()}"',
            "VersionId": str(number),
            "LastModified": START + timedelta(seconds=number),
            "Size": len(data),
            "data": data,
        }
        self.objects.setdefault(Key, []).append(version)
        return version

    def get_object(self, Key: str, VersionId: str = "", Range: str = "", **_: Any) -> dict[str, Any]:  # noqa: N803
        self._count("get", Key)
        version = self._version(Key, VersionId)
        if Range and not version["data"]:
            raise client_error("InvalidRange")
        return {"Body": Body(version["data"]), **version}

    def head_object(self, Key: str, VersionId: str = "", **_: Any) -> dict[str, Any]:  # noqa: N803
        self._count("head", Key)
        version = self._version(Key, VersionId)
        return {"ContentLength": version["Size"], **version}

    def copy_object(self, Key: str, CopySource: dict[str, str], **_: Any) -> None:  # noqa: N803
        self._count("copy", CopySource["Key"])
        self.put_object(Key, self._version(CopySource["Key"], CopySource.get("VersionId", ""))["data"])

    def delete_object(self, Key: str, **_: Any) -> None:  # noqa: N803
        self._count("delete", Key)
        self.objects.pop(Key, None)

    def delete_objects(self, Delete: dict[str, Any], **_: Any) -> None:  # noqa: N803
        for item in Delete["Objects"]:
            self.delete_object(item["Key"])

    def list_objects_v2(self, **_: Any) -> dict[str, Any]:
        self._count("list")
        return {}

    def head_bucket(self, **_: Any) -> None:
        self._count("head")

    def get_paginator(self, operation: str) -> Bucket:
        self._count(operation)
        return self

    def paginate(self, Prefix: str, **_: Any) -> Iterator[dict[str, Any]]:  # noqa: N803
        keys = sorted(key for key in self.objects if key.startswith(Prefix))
        for place in range(0, len(keys), 1000):
            page = keys[place : place + 1000]
            versions = [{**v, "IsLatest": v is self.objects[k][-1]} for k in page for v in reversed(self.objects[k])]
            yield {"Contents": [v for v in versions if v["IsLatest"]], "Versions": versions}

    def _version(self, key: str, version: str) -> dict[str, Any]:
        versions = [v for v in self.objects.get(key, []) if version in ("", v["VersionId"])]
        if not versions:
            raise client_error("NoSuchKey")
        return versions[-1]


class Body(io.BytesIO):
    def iter_chunks(self, size: int) -> Iterator[bytes]:
        while piece := self.read(size):
            yield piece


class Namespace:
    """A cluster client, as far as `jobs.service` uses it. refusing: exception that `create` raises."""

    namespace = "here"

    def __init__(self) -> None:
        self.workflows: dict[str, dict[str, Any]] = {}
        self.refusing: Exception | None = None
        self.requests: Counter[str] = Counter()

    def create(self, workflow: dict[str, Any]) -> dict[str, Any]:
        self.requests["create"] += 1
        if self.refusing:
            raise self.refusing
        name = workflow["metadata"]["name"]
        if name in self.workflows:
            raise Conflict(name)
        self.workflows[name] = as_created(workflow, len(self.workflows))
        return self.workflows[name]

    def get(self, name: str) -> dict[str, Any] | None:
        self.requests["get"] += 1
        return self.workflows.get(name)

    def pages(self, selector: str = "", full: bool = True) -> Iterator[Page]:
        yield Page(list(self.workflows.values()), "1")

    def list(self, selector: str = "") -> list[dict[str, Any]]:
        return list(self.workflows.values())

    def template(self, name: str) -> dict[str, Any] | None:
        return {"spec": {"arguments": {"parameters": PARAMETERS}}}


def as_created(workflow: dict[str, Any], number: int) -> dict[str, Any]:
    """A workflow with the fields that the API server and Argo's controller set."""
    created = copy.deepcopy(workflow)
    created["metadata"] |= {
        "uid": f"00000000-0000-4000-8000-{number:012d}",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "resourceVersion": str(number + 1),
    }
    created["metadata"].setdefault("labels", {})["sixview.dev/folder"] = "uid"
    created["status"] = {"phase": "Running", "nodes": {}}
    return created


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    double = Bucket()

    def client(endpoint: str = "") -> Any:
        return double

    monkeypatch.setattr(s3, "client", client)
    return double
