"""S3, in one place. The environment says where and who: S3_ENDPOINT (empty: AWS), AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY.

What lies where in the bucket; each prefix has a lifetime of its own (see `buckets`):
  inputs/<job>/     what was uploaded for a job          records/<job>.json  how it ended; stays for ever
  jobs/<job>/       between its steps                    drops/              what people drop, see `drops`
  results/<job>/    result.zip, report.html, failure.json    logs/           of its pods
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from pipeline import reading

INPUTS, PARTS, RESULTS, RECORDS, DROPS, LOGS = "inputs/", "jobs/", "results/", "records/", "drops/", "logs/"
OPEN = "open/"  # jobs that have not ended, see `ledger`
PREFIXES = (INPUTS, PARTS, RESULTS, RECORDS, DROPS, LOGS, OPEN)
FINAL = ("result.zip", "report.html", "failure.json")
PATIENCE_SECONDS = 120.0  # a store that is away for less than this is waited for
MISSING = ("404", "NoSuchKey", "NoSuchBucket", "NotFound")


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


def key_of(job: str, name: str) -> str:
    """Where a part of a job lies."""
    return f"{RESULTS if name in FINAL else PARTS}{job}/{name}"


def record_key(job: str) -> str:
    """Where it is written how a job ended."""
    return f"{RECORDS}{job}.json"


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


def read(key: str, **more: Any) -> bytes | None:
    """A small object's bytes; None where there is none."""
    try:
        return bytes(client().get_object(Bucket=bucket(), Key=key, **more)["Body"].read())
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
