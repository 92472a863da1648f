"""S3, in one place. The environment says where and who: S3_ENDPOINT (empty: AWS), AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY.

What lies where in the bucket; each prefix has a lifetime of its own (see `bucket_setup`):
  inputs/<job>…/       what was uploaded for a job             records/<folder>.json     how it ended; stays for ever
  jobs/<folder>/       between its steps                       logs/sixview-<folder>/    of its pods
  results/<folder>/    result.zip, report.html, failure.json   drops/                    what people drop, see `intake`

A job's folder is `<job>.<uid of its workflow>`: nobody chooses it, so no workflow's name leads into another job's folder. It is
`<job>` alone for jobs from before there were uids in it, and for drops that never became a workflow.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pipeline.clients import reading
from pipeline.jobs.ids import PREFIX

INPUTS, PARTS, RESULTS, RECORDS, DROPS, LOGS = "inputs/", "jobs/", "results/", "records/", "drops/", "logs/"
OPEN = "open/"  # jobs that have not ended, see `ledger`
PREFIXES = (INPUTS, PARTS, RESULTS, RECORDS, DROPS, LOGS, OPEN)
FINAL = ("result.zip", "report.html", "failure.json")
PATIENCE_SECONDS = 120.0  # a store that is away for less than this is waited for
MISSING = ("404", "NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NotFound")
UID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@functools.cache
def client(endpoint: str = "") -> Any:
    """A boto3 client that tries again by itself. It may be used by several threads. endpoint: instead of S3_ENDPOINT."""
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "max_attempts": 5},
        s3={"addressing_style": "path"},
        connect_timeout=5,
        max_pool_connections=32,
        signature_version="s3v4",
    )
    endpoint = endpoint or os.environ.get("S3_ENDPOINT") or ""
    return boto3.client(
        "s3", endpoint_url=endpoint or None, region_name=os.environ.get("AWS_REGION", "us-east-1"), config=config
    )


def split(address: str) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key. Raises ValueError for anything else."""
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ValueError(f"{address!r} is not an address of the form s3://bucket/key")
    return bucket, key


def bucket() -> str:
    """The bucket of this installation: S3_BUCKET."""
    return os.environ.get("S3_BUCKET") or "sixview"


def key_of(folder: str, name: str) -> str:
    """Where a part of a job lies."""
    return f"{RESULTS if name in FINAL else PARTS}{folder}/{name}"


def record_key(folder: str) -> str:
    """Where it is written how a job ended."""
    return f"{RECORDS}{folder}.json"


def job_of_record(key: str) -> str:
    """The job that a record is of; empty for any other object. Of which workflow it is, stands in the record."""
    found = re.fullmatch(rf"{RECORDS}([a-z0-9-]+)(?:\.{UID})?\.json", key)
    return found[1] if found else ""


def record_of(job: str) -> dict[str, Any] | None:
    """The newest record of the job: workflows of other names may have the same id in theirs. None where there is none; only its
    folder where it cannot be read."""
    found = [item for item in listed(f"{RECORDS}{job}.") if job_of_record(item["Key"]) == job]
    for item in sorted(found, key=lambda o: o["LastModified"], reverse=True):
        record = reading.mapping(read_json(item["Key"]))
        if record.get("workflow") in (None, "", PREFIX + job):
            return {**record, "folder": item["Key"].removeprefix(RECORDS).removesuffix(".json")}
    return None


# -- objects ------------------------------------------------------------------------------------------------------------


def upload(path: Path, address: str) -> None:
    """Puts a file in its place, whole or not at all; above 8 MB in parts. S3 checks every part's checksum."""
    client().upload_file(str(path), *split(address), ExtraArgs={"ChecksumAlgorithm": "SHA256"})


def put(file: IO[bytes], key: str, **more: Any) -> None:
    """One object from an open file, in one request and without holding it in memory."""
    client().put_object(Bucket=bucket(), Key=key, Body=file, **more)


def remove(address: str) -> None:
    """Takes an object away, if it is there."""
    name, key = split(address)
    client().delete_object(Bucket=name, Key=key)


def read_json(key: str) -> Any:
    """An object's JSON; None where there is no such object, or it holds something else."""
    data = read(key)
    return None if data is None else reading.json_of(data)


def read(key: str, most: int | None = None, **more: Any) -> bytes | None:
    """A small object's bytes, `most` of them at most; None where there is none."""
    try:
        body = client().get_object(Bucket=bucket(), Key=key, **more)["Body"]
        with contextlib.closing(body):
            return bytes(body.read(most))
    except client().exceptions.ClientError as error:
        if error.response["Error"]["Code"] in MISSING:
            return None
        raise


def write_json(key: str, value: Any) -> None:
    data = json.dumps(value, indent=1, ensure_ascii=False).encode()
    client().put_object(Bucket=bucket(), Key=key, Body=data, ContentType="application/json")


def head(key: str) -> dict[str, Any] | None:
    """Size, ETag and so on; None where there is no such object."""
    try:
        return dict(client().head_object(Bucket=bucket(), Key=key))
    except client().exceptions.ClientError as error:
        if error.response["Error"]["Code"] in MISSING:
            return None
        raise


def listed(prefix: str) -> Iterator[dict[str, Any]]:
    """Every object under a prefix: Key, Size, ETag, LastModified."""
    for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket(), Prefix=prefix):
        yield from page.get("Contents", [])


def versions(prefix: str) -> Iterator[dict[str, Any]]:
    """Every version under a prefix that is still there, deleted ones too; the newest of a key first."""
    for page in client().get_paginator("list_object_versions").paginate(Bucket=bucket(), Prefix=prefix):
        yield from page.get("Versions", [])


def purge(prefix: str, keep: tuple[str, ...] = ()) -> None:
    """Takes every version of everything under a prefix away, but for what lies under `keep`."""
    for page in client().get_paginator("list_object_versions").paginate(Bucket=bucket(), Prefix=prefix):
        found = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        gone = [
            {"Key": o["Key"], "VersionId": o["VersionId"]} for o in found if not o["Key"].startswith(keep or ("\0",))
        ]
        if gone:
            client().delete_objects(Bucket=bucket(), Delete={"Objects": gone, "Quiet": True})


# -- the bucket ---------------------------------------------------------------------------------------------------------


def ensure_bucket(name: str) -> None:
    """Makes a bucket where there is none yet, and waits for a store that is only just starting."""
    from botocore.exceptions import BotoCoreError, ClientError

    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            found = {b["Name"] for b in client().list_buckets()["Buckets"]}
            if name not in found:
                client().create_bucket(Bucket=name)
            return
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > end:
                raise SystemExit(f"The S3 store does not answer: {error}") from None
            time.sleep(2)


if __name__ == "__main__":
    ensure_bucket(sys.argv[1])
