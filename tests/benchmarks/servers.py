"""Servers of a benchmark alone: etcd with an API server that knows Argo's kinds, and MinIO. On loopback, without a node; all that
they write lies in one folder. Their programs are those of the test cluster."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from pipeline.clients import s3
from tests.cluster.node import run, wait_for
from tests.cluster.places import BIN, SOURCES
from tests.cluster.web import free_port

CRDS = SOURCES / "argo" / "manifests" / "base" / "crds" / "minimal"
TOKEN = "only-for-the-benchmark"
QUOTA = 8 << 30  # bytes that etcd may keep


@contextlib.contextmanager
def process(folder: Path, *command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server until the end of the with statement."""
    with open(folder / f"{Path(command[0]).name}.log", "ab") as log:
        started = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **environment})
    try:
        yield started
    finally:
        started.kill()  # what they have written goes with the folder
        started.wait(timeout=60)


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[Path]:
    """An API server in which anybody may do anything, with Argo's kinds and the namespace sixview. Yields its kubeconfig."""
    run("openssl", "genrsa", "-out", "sa.key", "2048", cwd=folder)
    (folder / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters")
    client_url, peer_url, port = *(f"http://127.0.0.1:{free_port()}" for _ in range(2)), free_port()
    etcd = f"--data-dir etcd --unsafe-no-fsync --listen-client-urls {client_url} --advertise-client-urls {client_url} "
    etcd += (
        f"--listen-peer-urls {peer_url} --initial-advertise-peer-urls {peer_url} --initial-cluster default={peer_url} "
    )
    etcd += f"--quota-backend-bytes {QUOTA} --auto-compaction-mode revision --auto-compaction-retention 2000"
    server = (
        f"--etcd-servers={client_url} --secure-port={port} --bind-address=127.0.0.1 --cert-dir={folder}/certificates "
    )
    server += (
        "--service-account-issuer=https://benchmark --service-account-key-file=sa.key --authorization-mode=AlwaysAllow "
    )
    server += (
        "--service-account-signing-key-file=sa.key --service-cluster-ip-range=10.0.0.0/24 --token-auth-file=tokens.csv"
    )
    config = folder / "kubeconfig"
    with (
        process(folder, str(BIN / "etcd"), *etcd.split()),
        process(folder, str(BIN / "kube-apiserver"), *server.split()),
    ):
        config.write_text(json.dumps(_kubeconfig(folder, port)))
        wait_for(lambda: kubectl(config, "get", "--raw", "/readyz", check=False) == 0, 180, "the API server")
        kubectl(config, "apply", "--server-side", "-k", str(CRDS))
        kubectl(config, "create", "namespace", "sixview")
        kubectl(config, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        yield config


def kubectl(config: Path, *arguments: str, check: bool = True) -> int:
    command = [str(BIN / "kubectl"), "--kubeconfig", str(config), *arguments]
    return subprocess.run(command, check=check, capture_output=True, timeout=120).returncode


def _kubeconfig(folder: Path, port: int) -> dict[str, Any]:
    own = str(folder / "certificates" / "apiserver.crt")  # the server signs for itself
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": own}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "benchmark", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "benchmark", "context": {"cluster": "benchmark", "user": "admin"}}],
        "current-context": "benchmark",
    }


@contextlib.contextmanager
def store(folder: Path) -> Iterator[dict[str, str]]:
    """MinIO with an empty bucket that keeps versions. Yields what the environment has to say of it."""
    port = free_port()
    keys = {"AWS_ACCESS_KEY_ID": "sixview", "AWS_SECRET_ACCESS_KEY": "only-for-tests"}
    environment = {"S3_ENDPOINT": f"http://127.0.0.1:{port}", "S3_BUCKET": "sixview", **keys}
    own = {"MINIO_ROOT_USER": "sixview", "MINIO_ROOT_PASSWORD": "only-for-tests", "MINIO_BROWSER": "off"}
    with process(folder, str(BIN / "minio"), "server", "data", "--address", f"127.0.0.1:{port}", **own):
        wait_for(lambda: _alive(environment["S3_ENDPOINT"]), 60, "MinIO")
        os.environ.update(environment)
        s3.client.cache_clear()
        s3.ensure_bucket("sixview")
        versioned = {"Status": "Enabled"}
        s3.client().put_bucket_versioning(Bucket="sixview", VersioningConfiguration=versioned)
        yield environment


def _alive(base: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{base}/minio/health/live").status_code == 200
    return False
