"""Bucket configuration: versioning, lifecycle rules, event notifications.

By MinIO's SDK, which works with any S3: it has these documents as typed objects, where boto3 takes untyped dictionaries, and
sends the Content-MD5 that some stores require with them. boto3 moves the data, see `s3`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pipeline.clients import s3
from pipeline.clients.s3 import READY, ZIP
from steps.runtime.errors import StorageUnavailable

RULE_PREFIX = "sixview-"


@dataclass(frozen=True)
class Lifetimes:
    """Days until objects expire, by prefix; 0: never. Records never expire. old: noncurrent versions."""

    inputs: int = 7
    intermediates: int = 7
    results: int = 30
    logs: int = 30
    drops: int = 30
    old: int = 7

    def rules(self) -> dict[str, tuple[str, int]]:
        """Rule name -> (prefix, days), without those that never expire."""
        rules = {
            "inputs": (s3.INPUTS, self.inputs),
            "intermediates": (s3.INTERMEDIATES, self.intermediates),
            "results": (s3.RESULTS, self.results),
            "logs": (s3.LOGS, self.logs),
            "drops": (s3.DROPS, self.drops),
        }
        return {name: rule for name, rule in rules.items() if rule[1]}


def client() -> Any:
    """MinIO client for S3_ENDPOINT, with the keys of the environment. Raises ConfigurationError."""
    from minio import Minio

    from pipeline.clients import environment

    settings = environment.store()
    address = urlsplit(settings.s3_endpoint or "https://s3.amazonaws.com")
    return Minio(
        address.netloc,
        access_key=settings.aws_access_key_id,
        secret_key=settings.aws_secret_access_key.get_secret_value(),
        secure=address.scheme == "https",
        region=settings.aws_region,
    )


def setup(bucket: str, lifetimes: Lifetimes, target: str = "") -> list[str]:
    """Creates the bucket if it is missing and sets versioning, lifecycle rules and notifications; rules of others stay.

    target: ARN of MinIO's webhook for drops, as `arn:minio:sqs::DROP:webhook`, or of an SQS queue; "": no notifications.
    Returns a sentence for each setting. Raises StorageUnavailable."""
    from minio.error import MinioException

    s3.ensure_bucket(bucket)
    try:
        store = client()
        changes = [versioning(store, bucket), lifecycle(store, bucket, lifetimes)]
        return changes + ([notification(store, bucket, target)] if target else [])
    except MinioException as error:
        raise StorageUnavailable(f"The bucket {bucket} could not be set up: {error}") from None


def versioning(store: Any, bucket: str) -> str:
    """Enables versioning: a drop that is overwritten before the intake has read it still becomes a job."""
    from minio.commonconfig import ENABLED
    from minio.versioningconfig import VersioningConfig

    store.set_bucket_versioning(bucket_name=bucket, config=VersioningConfig(ENABLED))
    return "versions are kept"


def lifecycle(store: Any, bucket: str, lifetimes: Lifetimes) -> str:
    """Replaces the rules whose id begins with RULE_PREFIX; rules of others stay."""
    from minio import lifecycleconfig as lc
    from minio.commonconfig import ENABLED, Filter

    current = store.get_bucket_lifecycle(bucket_name=bucket)
    rules = [rule for rule in (current.rules if current else []) if not (rule.rule_id or "").startswith(RULE_PREFIX)]
    abort_incomplete = lc.AbortIncompleteMultipartUpload(days_after_initiation=1)
    noncurrent_expiration = lc.NoncurrentVersionExpiration(noncurrent_days=lifetimes.old) if lifetimes.old else None
    for name, (prefix, days) in lifetimes.rules().items():
        rules.append(
            lc.Rule(
                ENABLED,
                rule_filter=Filter(prefix=prefix),
                rule_id=RULE_PREFIX + name,
                expiration=lc.Expiration(days=days),
                noncurrent_version_expiration=noncurrent_expiration,
                abort_incomplete_multipart_upload=abort_incomplete,
            )
        )
    store.set_bucket_lifecycle(bucket_name=bucket, config=lc.LifecycleConfig(rules))
    return ", ".join(f"{prefix} is kept for {days} days" for prefix, days in lifetimes.rules().values())


def notification(store: Any, bucket: str, target: str) -> str:
    """Sends ObjectCreated events of the objects that complete a drop, _READY.json and .zip under drops/, to `target`."""
    from minio import notificationconfig as nc

    current = store.get_bucket_notification(bucket_name=bucket)
    queues = [q for q in (current.queue_config_list or []) if not (q.config_id or "").startswith(RULE_PREFIX)]
    for suffix in (READY.removeprefix("/"), ZIP):
        queues.append(
            nc.QueueConfig(
                queue=target,
                events=["s3:ObjectCreated:*"],
                config_id=f"{RULE_PREFIX}drop{suffix.partition('.')[2]}",
                prefix_filter_rule=nc.PrefixFilterRule(s3.DROPS),
                suffix_filter_rule=nc.SuffixFilterRule(suffix),
            )
        )
    config = nc.NotificationConfig(
        cloud_func_config_list=current.cloud_func_config_list,
        queue_config_list=queues,
        topic_config_list=current.topic_config_list,
    )
    store.set_bucket_notification(bucket_name=bucket, config=config)
    return f"drops are announced to {target}"
