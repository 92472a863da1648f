"""Sets a bucket up, with the MinIO SDK, which speaks to any S3: versioning, lifetimes, and where MinIO announces drops."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pipeline.clients import s3
from pipeline.incluster.markers import READY, ZIP
from steps.runtime.errors import StorageUnavailable

RULE = "sixview-"


@dataclass(frozen=True)
class Lifetimes:
    """Days after which things go; 0: never. Records stay for ever. old: replaced and deleted versions."""

    inputs: int = 7
    intermediates: int = 7
    results: int = 30
    logs: int = 30
    drops: int = 30
    old: int = 7

    def rules(self) -> dict[str, tuple[str, int]]:
        """name -> prefix and days."""
        named = {
            "inputs": (s3.INPUTS, self.inputs),
            "intermediates": (s3.PARTS, self.intermediates),
            "results": (s3.RESULTS, self.results),
            "logs": (s3.LOGS, self.logs),
            "drops": (s3.DROPS, self.drops),
        }
        return {name: rule for name, rule in named.items() if rule[1]}


def client() -> Any:
    """The MinIO SDK's client for the store that the environment names."""
    from minio import Minio

    address = urlsplit(os.environ.get("S3_ENDPOINT") or "https://s3.amazonaws.com")
    return Minio(
        address.netloc,
        access_key=os.environ.get("AWS_ACCESS_KEY_ID", ""),
        secret_key=os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        secure=address.scheme == "https",
        region=os.environ.get("AWS_REGION", "us-east-1"),
    )


def setup(bucket: str, lifetimes: Lifetimes, target: str = "") -> list[str]:
    """Makes the bucket what the pipeline needs; what others have set on it stays. target: ARN of MinIO's webhook for drops, as
    `arn:minio:sqs::DROP:webhook`, or of an SQS queue; empty: none. Returns what was set, in words."""
    from minio.error import MinioException

    s3.ensure_bucket(bucket)
    try:
        store = client()
        said = [versioning(store, bucket), lifecycle(store, bucket, lifetimes)]
        return said + ([notification(store, bucket, target)] if target else [])
    except MinioException as error:
        raise StorageUnavailable(f"The bucket {bucket} could not be set up: {error}") from None


def versioning(store: Any, bucket: str) -> str:
    """A drop that is replaced before anybody has looked at it is still a drop."""
    from minio.commonconfig import ENABLED
    from minio.versioningconfig import VersioningConfig

    store.set_bucket_versioning(bucket_name=bucket, config=VersioningConfig(ENABLED))
    return "versions are kept"


def lifecycle(store: Any, bucket: str, lifetimes: Lifetimes) -> str:
    """Our rules, beside those of others."""
    from minio import lifecycleconfig as lc
    from minio.commonconfig import ENABLED, Filter

    before = store.get_bucket_lifecycle(bucket_name=bucket)
    rules = [rule for rule in (before.rules if before else []) if not (rule.rule_id or "").startswith(RULE)]
    aborted = lc.AbortIncompleteMultipartUpload(days_after_initiation=1)
    old = lc.NoncurrentVersionExpiration(noncurrent_days=lifetimes.old) if lifetimes.old else None
    for name, (prefix, days) in lifetimes.rules().items():
        rules.append(
            lc.Rule(
                ENABLED,
                rule_filter=Filter(prefix=prefix),
                rule_id=RULE + name,
                expiration=lc.Expiration(days=days),
                noncurrent_version_expiration=old,
                abort_incomplete_multipart_upload=aborted,
            )
        )
    store.set_bucket_lifecycle(bucket_name=bucket, config=lc.LifecycleConfig(rules))
    return ", ".join(f"{prefix} is kept for {days} days" for prefix, days in lifetimes.rules().values())


def notification(store: Any, bucket: str, target: str) -> str:
    """Announces what completes a drop, and nothing else."""
    from minio import notificationconfig as nc

    before = store.get_bucket_notification(bucket_name=bucket)
    queues = [q for q in (before.queue_config_list or []) if not (q.config_id or "").startswith(RULE)]
    for suffix in (READY.removeprefix("/"), ZIP):
        queues.append(
            nc.QueueConfig(
                queue=target,
                events=["s3:ObjectCreated:*"],
                config_id=f"{RULE}drop{suffix.partition('.')[2]}",
                prefix_filter_rule=nc.PrefixFilterRule(s3.DROPS),
                suffix_filter_rule=nc.SuffixFilterRule(suffix),
            )
        )
    config = nc.NotificationConfig(
        cloud_func_config_list=before.cloud_func_config_list,
        queue_config_list=queues,
        topic_config_list=before.topic_config_list,
    )
    store.set_bucket_notification(bucket_name=bucket, config=config)
    return f"drops are announced to {target}"
