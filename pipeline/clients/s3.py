"""The S3 client and the key layout. Settings: `environment.StoreSettings`.

boto3 moves all data: it has multipart uploads with a SHA-256 per part, retries, and every source of keys, such as a role. Only
`bucket_setup` uses MinIO's SDK.

Prefixes of the bucket; each but records/ has a lifecycle rule of its own (see `bucket_setup`):
  inputs/<job>…/       uploads                                 records/<folder>.json     a job's final record; never expires
  jobs/<folder>/       artifacts between its steps             logs/sixview-<folder>/    logs of its pods
  results/<folder>/    result.zip, report.html, failure.json   drops/                    sets to become jobs, see `intake`

A job's folder is `<job>.<uid of its workflow>`: users choose workflow names but no uids, so no name leads into another job's
folder. It is `<job>` alone for jobs older than this rule, and for drops that never became a workflow.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pipeline.clients import reading
from pipeline.clients.workflows import NAME_PREFIX

INPUTS, INTERMEDIATES, RESULTS, RECORDS, DROPS, LOGS = "inputs/", "jobs/", "results/", "records/", "drops/", "logs/"
OPEN = "open/"  # one object per unfinished job, see `ledger`
PREFIXES = (INPUTS, INTERMEDIATES, RESULTS, RECORDS, DROPS, LOGS, OPEN)
RESULT_FILES = ("result.zip", "report.html", "failure.json")
READY, ZIP = (
    "/_READY.json",
    ".zip",
)  # suffixes of the keys that complete a drop: drops/<name>/_READY.json, drops/<name>.zip
STARTUP_SECONDS = 120.0  # how long `ensure_bucket` retries while the store starts
NOT_FOUND_CODES = ("404", "NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NotFound")
UID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@functools.cache
def client(endpoint: str = "") -> Any:
    """A thread-safe boto3 client with retries. endpoint: URL in place of S3_ENDPOINT. Raises ConfigurationError."""
    import boto3
    from botocore.config import Config

    from pipeline.clients import environment

    config = Config(
        retries={"mode": "standard", "max_attempts": 5},
        s3={"addressing_style": "path"},
        connect_timeout=5,
        max_pool_connections=32,
        signature_version="s3v4",
    )
    settings = environment.store()
    endpoint = endpoint or settings.s3_endpoint
    return boto3.client("s3", endpoint_url=endpoint or None, region_name=settings.aws_region, config=config)


def split(address: str) -> tuple[str, str]:
    """(bucket, key) of s3://bucket/key. Raises ValueError for other URLs."""
    scheme, _, path = address.partition("://")
    bucket, _, key = path.partition("/")
    if scheme != "s3" or not bucket:
        raise ValueError(f"{address!r} is not an address of the form s3://bucket/key")
    return bucket, key


def bucket() -> str:
    """The installation's bucket: S3_BUCKET. Raises ConfigurationError."""
    from pipeline.clients import environment

    return environment.store().s3_bucket


def key_of(folder: str, name: str) -> str:
    """Key of one of a job's files: under results/ for RESULT_FILES, else under jobs/."""
    return f"{RESULTS if name in RESULT_FILES else INTERMEDIATES}{folder}/{name}"


def record_key(folder: str) -> str:
    """Key of a job's final record."""
    return f"{RECORDS}{folder}.json"


def job_of_record(key: str) -> str:
    """Job id in a record's key; "" for any other key. The record itself names the workflow."""
    match = re.fullmatch(rf"{RECORDS}([a-z0-9-]+)(?:\.{UID})?\.json", key)
    return match[1] if match else ""


def find_record(job: str) -> dict[str, Any] | None:
    """The newest record of the job's workflow, with its folder; None where there is none.

    Workflows without the name prefix may have the same id in their key: their records are skipped. A record that is not a JSON
    object gives {"folder": …} alone."""
    objects = [item for item in listed(f"{RECORDS}{job}.") if job_of_record(item["Key"]) == job]
    for item in sorted(objects, key=lambda listed_object: listed_object["LastModified"], reverse=True):
        record = reading.mapping(read_json(item["Key"]))
        if record.get("workflow") in (None, "", NAME_PREFIX + job):
            return {**record, "folder": item["Key"].removeprefix(RECORDS).removesuffix(".json")}
    return None


# -- objects ----------------------------------------------------------------------------------------------------------


def upload(path: Path, address: str) -> None:
    """Uploads a file, atomically; as a multipart upload above 8 MB. S3 verifies the SHA-256 of every part. address: s3:// URL."""
    client().upload_file(str(path), *split(address), ExtraArgs={"ChecksumAlgorithm": "SHA256"})


def put(file: IO[bytes], key: str, **options: Any) -> None:
    """Uploads an open file in one request, without reading it into memory."""
    client().put_object(Bucket=bucket(), Key=key, Body=file, **options)


def remove(address: str) -> None:
    """Deletes an object; no error where it is missing. address: s3:// URL."""
    name, key = split(address)
    client().delete_object(Bucket=name, Key=key)


def read_json(key: str) -> Any:
    """An object's decoded JSON; None where the object is missing or not JSON."""
    data = read(key)
    return None if data is None else reading.json_of(data)


def read(key: str, max_bytes: int | None = None, **options: Any) -> bytes | None:
    """An object's first `max_bytes` bytes, all by default; None where it is missing."""
    try:
        body = client().get_object(Bucket=bucket(), Key=key, **options)["Body"]
        with contextlib.closing(body):
            return bytes(body.read(max_bytes))
    except client().exceptions.ClientError as error:
        if error.response["Error"]["Code"] in NOT_FOUND_CODES:
            return None
        raise


def write_json(key: str, value: Any) -> None:
    data = json.dumps(value, indent=1, ensure_ascii=False).encode()
    client().put_object(Bucket=bucket(), Key=key, Body=data, ContentType="application/json")


def head(key: str) -> dict[str, Any] | None:
    """HeadObject response (ContentLength, ETag, …); None where the object is missing."""
    try:
        return dict(client().head_object(Bucket=bucket(), Key=key))
    except client().exceptions.ClientError as error:
        if error.response["Error"]["Code"] in NOT_FOUND_CODES:
            return None
        raise


def listed(prefix: str) -> Iterator[dict[str, Any]]:
    """All objects under a prefix: Key, Size, ETag, LastModified."""
    for page in client().get_paginator("list_objects_v2").paginate(Bucket=bucket(), Prefix=prefix):
        yield from page.get("Contents", [])


def versions(prefix: str) -> Iterator[dict[str, Any]]:
    """All object versions under a prefix, also of deleted keys; the newest of a key first."""
    for page in client().get_paginator("list_object_versions").paginate(Bucket=bucket(), Prefix=prefix):
        yield from page.get("Versions", [])


def purge(prefix: str, keep: tuple[str, ...] = ()) -> None:
    """Deletes all versions of all objects under a prefix, except under the prefixes in `keep`."""
    for page in client().get_paginator("list_object_versions").paginate(Bucket=bucket(), Prefix=prefix):
        versions = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        deletions = [
            {"Key": version["Key"], "VersionId": version["VersionId"]}
            for version in versions
            if not version["Key"].startswith(keep or ("\0",))
        ]
        if deletions:
            client().delete_objects(Bucket=bucket(), Delete={"Objects": deletions, "Quiet": True})


# -- the bucket -------------------------------------------------------------------------------------------------------


def ensure_bucket(name: str) -> None:
    """Creates the bucket if it is missing; retries for STARTUP_SECONDS. Raises SystemExit where the store does not respond."""
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + STARTUP_SECONDS
    while True:
        try:
            names = {b["Name"] for b in client().list_buckets()["Buckets"]}
            if name not in names:
                client().create_bucket(Bucket=name)
            return
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"The S3 store does not answer: {error}") from None
            time.sleep(2)
