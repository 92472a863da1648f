"""What runs inside the cluster, installed as a user would: CoreDNS, Argo by its own manifests, sixview by its chart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from minio import Minio, MinioAdmin
from minio.credentials import StaticProvider

from tests.cluster import client, images
from tests.cluster.build import argo_source, events_source
from tests.cluster.node import kubectl, read_json, run, wait_for
from tests.cluster.places import BIN, HERE, KUBECONFIG, NAMESPACE, NODE, ROOT
from tests.reconviagen.parts import write_weights

RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
VALUES = HERE / "manifests" / "values.yaml"


def install() -> None:
    """Everything; what is there already is brought up to date."""
    kubectl("apply", "--server-side", "-f", str(HERE / "manifests" / "coredns.yaml"))
    argo()
    events()
    namespace(NAMESPACE)
    bus()
    chart("sixview-cpu", "cpu.yaml", "platform.yaml")
    chart("sixview", "gpu.yaml")
    chart("sixview-hasty", "cpu.yaml", "hasty.yaml")
    chart("sixview-broken", "cpu.yaml", "broken.yaml")
    chart("sixview-readonly", "cpu.yaml", "readonly.yaml")
    weights()
    chart("sixview-published", "cpu.yaml", "published.yaml")
    chart("sixview-full", "full.yaml")
    chart("sixview-stuck", "cpu.yaml", "stuck.yaml")
    restart_changed()
    for deployment in (
        "sixview/sixview-cpu-gateway",
        "argo-events/controller-manager",
        "argo/workflow-controller",
        "argo/argo-server",
        "kube-system/coredns",
    ):
        space, name = deployment.split("/")
        kubectl("-n", space, "rollout", "status", f"deployment/{name}", "--timeout=120s")
    kubectl("-n", NAMESPACE, "rollout", "status", "statefulset/sixview-cpu-minio", "--timeout=120s")
    reader()


def weights() -> None:
    """The stand-in's weights, on a volume of this node."""
    folder = NODE / "standin-weights"
    if not folder.exists():
        write_weights(folder)
    kubectl("apply", "-f", "-", given=(HERE / "manifests" / "weights.yaml").read_text().replace("FOLDER", str(folder)))


def restart_changed() -> None:
    """Restarts Deployments whose pods run an older image of the same name."""
    identity = read_json(NODE / "images.json", {"tags": {}})["tags"].get(f"{images.REGISTRY}/control:{images.TAG}")
    if identity and (NODE / "control").exists() and (NODE / "control").read_text() != identity:
        kubectl("-n", NAMESPACE, "rollout", "restart", "deployment", "-l", "app.kubernetes.io/name=sixview")
    if identity:
        (NODE / "control").write_text(identity)


def reader() -> None:
    """Creates a MinIO user with read-only access to one bucket."""
    endpoint = client.address("sixview-cpu-minio", 9000)
    admin = MinioAdmin(endpoint=endpoint, credentials=StaticProvider("sixview", "only-for-tests"), secure=False)
    read = {
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:ListBucket"],
        "Resource": ["arn:aws:s3:::sixview/*", "arn:aws:s3:::sixview"],
    }
    admin.policy_add("reader", policy={"Version": "2012-10-17", "Statement": [read]})
    admin.user_add("reader", "only-for-reading")
    if "reader" not in str(json.loads(admin.user_info("reader")).get("policyName")):
        admin.policy_set("reader", user="reader")
    storage = Minio(endpoint, "sixview", "only-for-tests", secure=False)
    if not storage.bucket_exists(bucket_name="private"):
        storage.make_bucket(bucket_name="private")


def namespace(name: str) -> None:
    """A namespace that admits no pod with more rights than it needs."""
    kubectl("apply", "-f", "-", given=kubectl("create", "namespace", name, "--dry-run=client", "-o", "yaml").stdout)
    kubectl("label", "namespace", name, RESTRICTED, "--overwrite")


def argo() -> None:
    """The controller and the server."""
    namespace("argo")
    kustomized("argo", argo_source() / "manifests")
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(HERE / "manifests" / "controller.yaml"))
    kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")


def events() -> None:
    """Argo Events' controller."""
    namespace("argo-events")
    kustomized("argo-events", events_source() / "manifests")
    kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")


def kustomized(name: str, manifests: Path) -> None:
    """Applies a project's own manifests with this cluster's images."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "kustomization.yaml").write_text(
            (HERE / "manifests" / f"{name}.kustomization.yaml").read_text()
        )
        shutil.copytree(manifests, Path(folder) / name / "manifests", copy_function=shutil.copyfile)
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)
        output = kubectl("kustomize", "--load-restrictor", "LoadRestrictionsNone", folder).stdout
    apply = ("apply", "--server-side", "--force-conflicts", "-f", "-")
    wait_for(
        lambda: kubectl(*apply, given=output, check=False).returncode == 0,
        60,
        f"the manifests of {name} to be accepted",
    )


def bus() -> None:
    """A NATS with JetStream and a certificate of its own: clients insist on TLS."""
    names = "subjectAltName=DNS:nats.sixview.svc,DNS:nats"
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = Path(folder) / "tls.key", Path(folder) / "tls.crt"
        new = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "365", "-subj", "/CN=nats")
        run(*new, "-addext", names, "-keyout", str(key), "-out", str(certificate))
        secret = ("create", "secret", "tls", "nats", f"--cert={certificate}", f"--key={key}")
        kubectl("-n", NAMESPACE, *secret, check=False)  # one that is there already is as good
    kubectl("-n", NAMESPACE, "apply", "-f", str(HERE / "manifests" / "nats.yaml"))


def chart(release: str, *values: str) -> None:
    """Installs or updates a release of charts/sixview."""
    files = [option for name in ("values.yaml", *values) for option in ("-f", str(HERE / "manifests" / name))]
    kubeconfig = os.environ.get("KUBECONFIG") or str(KUBECONFIG)
    upgrade = (
        "--kubeconfig",
        kubeconfig,
        "-n",
        NAMESPACE,
        "upgrade",
        "--install",
        release,
        str(ROOT / "charts/sixview"),
    )
    run(str(BIN / "helm"), *upgrade, *files, "--set", f"images.registry={images.REGISTRY},images.tag={images.TAG}")
