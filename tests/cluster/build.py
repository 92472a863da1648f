"""Builds the cluster's servers from Go modules: about a quarter of an hour on two cores, once for each set of versions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.cluster.places import BIN, HERE, SOURCES, VERSIONS

KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubectl", "kubelet")
ARGO = ("argoexec", "workflow-controller", "argo")
ENVIRONMENT = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-trimpath -buildvcs=false"}
# the API server refuses a client of an unknown version: `kubectl version` and `argo version` have to tell the right one
KUBERNETES_FLAGS = f"-s -w -X k8s.io/component-base/version.gitVersion={VERSIONS['kubernetes']}"
# the version that `helm template` takes a cluster to have
HELM_FLAGS = "-s -w " + " ".join(
    f"-X helm.sh/helm/v3/pkg/{package}.k8sVersion{part}={number}"
    for package in ("chartutil", "lint/rules")
    for part, number in zip(("Major", "Minor"), VERSIONS["kubernetes"].removeprefix("v").split(".")[:2], strict=True)
)
ARGO_FLAGS = f"-s -w -X github.com/argoproj/argo-workflows/v3.version={VERSIONS['argo']}"


def build(only: tuple[str, ...] = ()) -> Path:
    """Builds what is not there yet, all of it or `only` some. Returns the folder with the binaries."""
    BIN.mkdir(parents=True, exist_ok=True)
    for names, make in RECIPES.items():
        wanted = [name for name in names if not only or name in only]
        if any(not (BIN / name).exists() for name in wanted):
            print(f"building {', '.join(names)}", flush=True)
            make()
    return BIN


def _go(*arguments: str | Path, cwd: Path | None = None) -> str:
    """Runs go. Its output is shown where it fails."""
    done = subprocess.run(["go", *map(str, arguments)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"go {' '.join(map(str, arguments))} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def _module(path: str, version: str) -> Path:
    """The module's source in Go's own cache."""
    return Path(json.loads(_go("mod", "download", "-json", f"{path}@{version}", cwd=SOURCES))["Dir"])


def _compile(name: str, package: str, cwd: Path, flags: str = "-s -w") -> None:
    """Builds one binary, and moves it into place when it is complete."""
    _go("build", "-ldflags", flags, "-o", BIN / f".{name}", package, cwd=cwd)
    os.replace(BIN / f".{name}", BIN / name)


def _argo() -> None:
    """Builds argo from a copy of its module with one Linux file and the UI added: the published module lacks both, and Go's
    overlays do not apply inside the module cache."""
    source = argo_source()
    for name in ARGO:
        _compile(name, f"./cmd/{name}", source, ARGO_FLAGS)


def argo_source() -> Path:
    """A copy of Argo's module, with what it lacks. Its manifests/ install Argo as a user would."""
    copy = SOURCES / "argo"
    if not copy.exists():
        SOURCES.mkdir(parents=True, exist_ok=True)
        staging = SOURCES / ".argo"
        shutil.rmtree(staging, ignore_errors=True)
        source = _module("github.com/argoproj/argo-workflows/v3", VERSIONS["argo"])
        shutil.copytree(source, staging, copy_function=shutil.copyfile)
        subprocess.run(["chmod", "-R", "u+w", staging], check=True)
        shutil.copyfile(HERE / "go" / "signal_linux.go", staging / "workflow/executor/osspecific/signal_linux.go")
        (staging / "ui/dist/app").mkdir(parents=True)
        (staging / "ui/dist/app/index.html").write_text("<html></html>")
        staging.rename(copy)
    return copy


def _kubernetes() -> None:
    """A module of our own that pins Kubernetes' staging modules to the same release."""
    version, folder = VERSIONS["kubernetes"], SOURCES / "kubernetes"
    folder.mkdir(parents=True, exist_ok=True)
    upstream = _module("k8s.io/kubernetes", version)
    module = (upstream / "go.mod").read_text()
    staging = re.findall(r"^\s+(k8s\.io/[a-z-]+) => \./staging", module, re.MULTILINE)
    lines = ["module tools/kubernetes", *re.findall(r"^(?:go|godebug) .*$", module, re.MULTILINE)]
    lines += [f"require k8s.io/kubernetes {version}"]
    lines += [f"replace {name} => {name} v0.{version.removeprefix('v1.')}" for name in staging]
    (folder / "go.mod").write_text("\n".join(lines) + "\n")
    shutil.copyfile(upstream / "go.sum", folder / "go.sum")
    imports = "\n".join(f'import _ "k8s.io/kubernetes/cmd/{name}"' for name in KUBERNETES)
    (folder / "tools.go").write_text(f"//go:build tools\n\npackage tools\n\n{imports}\n")
    _go("mod", "tidy", "-e", cwd=folder)
    for name in KUBERNETES:
        _compile(name, f"k8s.io/kubernetes/cmd/{name}", folder, KUBERNETES_FLAGS)


def _of_module(name: str, module: str, version: str, package: str = "", flags: str = "-s -w") -> Callable[[], None]:
    """A binary whose module can be required by one of our own."""

    def make() -> None:
        folder = SOURCES / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "go.mod").write_text(f"module tools/{name}\n")
        _go("get", f"{package or module}@{version}", cwd=folder)
        _compile(name, package or module, folder, flags)

    return make


def _minio() -> None:
    """MinIO's go.mod replaces modules, so it is built from its own folder."""
    SOURCES.mkdir(parents=True, exist_ok=True)
    _compile("minio", ".", _module("github.com/minio/minio", VERSIONS["minio"]))


def _argo_events() -> None:
    """Its controller, event source and sensor are one program."""
    _compile("argo-events", "./cmd", events_source())


def events_source() -> Path:
    """Argo Events' module. Its manifests/ install it as a user would."""
    SOURCES.mkdir(parents=True, exist_ok=True)
    return _module("github.com/argoproj/argo-events", VERSIONS["argo_events"])


def _pause() -> None:
    """Builds pause, the container that holds a pod's namespaces."""
    _compile("pause", str(HERE / "go" / "pause.go"), HERE)


RECIPES: dict[tuple[str, ...], Callable[[], None]] = {
    ("pause",): _pause,
    ARGO: _argo,
    KUBERNETES: _kubernetes,
    ("minio",): _minio,
    ("argo-events",): _argo_events,
    ("nats-server",): _of_module("nats-server", "github.com/nats-io/nats-server/v2", VERSIONS["nats"]),
    ("etcd",): _of_module("etcd", "go.etcd.io/etcd/server/v3", VERSIONS["etcd"]),
    ("coredns",): _of_module("coredns", "github.com/coredns/coredns", VERSIONS["coredns"]),
    ("helm",): _of_module("helm", "helm.sh/helm/v3", VERSIONS["helm"], "helm.sh/helm/v3/cmd/helm", HELM_FLAGS),
}
