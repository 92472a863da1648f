"""Container images without a registry: built with buildah over a debootstrap base, handed to the node as archives."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tests.cluster import node
from tests.cluster.places import BIN, CACHE, HERE, ROOT, digest

BASE = "localhost/sixview-base"
# where the chart is told to find the product's images; on a cluster of one's own nobody asks a registry
REGISTRY = os.environ.get("SIXVIEW_REGISTRY", "localhost/sixview")
TAG = os.environ.get("SIXVIEW_TAG", "test")
PRODUCT = ("slim", "engines-cpu", "control")
STAGES = ("web", "kernels", "program")
SUITE, EXTRA = "bookworm", "python3,python3-venv,ca-certificates"
# each a single static program in an empty file system; the entry point, and what may be executed besides
SERVERS = {
    "localhost/pause:1": ("pause",),
    "localhost/argoexec:1": ("argoexec",),
    "localhost/argo:1": ("argo", "workflow-controller"),
    "localhost/coredns:1": ("coredns",),
    "localhost/minio:1": ("minio",),
    "localhost/argo-events:1": ("argo-events",),
    "localhost/nats:1": ("nats-server",),
}


def ensure(product: dict[str, str]) -> None:
    """Gives the node every image that it lacks. product: what `product` returned."""
    for name, programs in SERVERS.items():
        give(name, server(name, programs))
    for name, identity in product.items():
        give(name, identity)
    node.run("buildah", "rmi", "--prune", "--force")  # what no image of ours is built upon any more


def product() -> dict[str, str]:
    """Builds every image of the product that has changed, and those of the tests upon them. Returns their ids by name."""
    allow_local_images()
    base()
    built = {f"{REGISTRY}/{name}:{TAG}": of_product(name) for name in PRODUCT}
    return built | {f"{REGISTRY}/engines-faults:{TAG}": faults(), f"{REGISTRY}/engines-standin:{TAG}": standin()}


def allow_local_images() -> None:
    """buildah asks this file what it may trust; where no package brought one, nothing is trusted at all."""
    policy = Path("/etc/containers/policy.json")
    if not policy.exists():
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')


def base() -> str:
    """Debian with Python, as the Containerfile's BASE. Made once: it changes only with its own key."""
    tag = f"{BASE}:{digest(SUITE, EXTRA)}"
    if subprocess.run(["buildah", "inspect", "--type", "image", tag], capture_output=True).returncode:
        rootfs = CACHE / f"rootfs-{digest(SUITE, EXTRA)}"
        if not rootfs.exists():
            print("building the Debian base", flush=True)
            staging = Path(tempfile.mkdtemp(dir=CACHE))
            node.run("debootstrap", "--variant=minbase", f"--include={EXTRA}", SUITE, str(staging))
            for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"):
                shutil.rmtree(staging / waste, ignore_errors=True)
            staging.rename(rootfs)
        bud(tag, rootfs, "FROM scratch\nCOPY . /\n")
    return tag


def server(name: str, programs: tuple[str, ...]) -> str:
    """Argo, MinIO, CoreDNS: one static program each."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "tmp").mkdir(mode=0o1777)
        (root / "tmp").chmod(0o1777)
        (root / "bin").mkdir()
        for program in programs:
            os.link(BIN / program, root / "bin" / program) if _same_disk(root) else shutil.copy(
                BIN / program, root / "bin"
            )
        return bud(name, root, f'FROM scratch\nCOPY . /\nENV PATH=/bin\nUSER 8737\nENTRYPOINT ["/bin/{programs[0]}"]\n')


def _same_disk(folder: Path) -> bool:
    return folder.stat().st_dev == BIN.stat().st_dev


def of_product(name: str) -> str:
    """Builds one of the product's images with images/Containerfile. Its stages are tagged too, so that their layers stay
    cached."""
    print(f"building {name}", flush=True)
    certificates = ("/etc/ssl/certs", "/usr/local/share/ca-certificates")
    options = [
        "--build-arg",
        f"BASE={base()}",
        "--build-arg",
        f"IMAGE={name}",
        "-f",
        str(ROOT / "images/Containerfile"),
    ]
    options += [word for folder in certificates for word in ("-v", f"{folder}:{folder}:ro")]
    wheels = os.environ.get("SIXVIEW_WHEELS", "")
    options += ["-v", f"{wheels}:/wheels:ro"] if wheels and Path(wheels).is_dir() else []
    for stage in STAGES:
        buildah(f"{REGISTRY}/{name}-{stage}:{TAG}", ROOT, [*options, "--target", stage])
    return buildah(f"{REGISTRY}/{name}:{TAG}", ROOT, options)


def faults() -> str:
    """The engines' image with faults on demand, for tests only; see faults/faults.py."""
    text = f"FROM {REGISTRY}/engines-cpu:{TAG}\nCOPY faults.py faults.pth /opt/python/lib/python3.11/site-packages/\n"
    return bud(f"{REGISTRY}/engines-faults:{TAG}", HERE / "faults", text)


def standin() -> str:
    """The engines beside the stand-in for the published model's package, as images/reconviagen has them beside the package."""
    environment = "SIXVIEW_RECONVIAGEN_PYTHON=/opt/python/bin/python SIXVIEW_RECONVIAGEN_PATH=/opt/standin"
    text = f"FROM {REGISTRY}/engines-cpu:{TAG}\nCOPY standin /opt/standin\nENV {environment}\n"
    return bud(f"{REGISTRY}/engines-standin:{TAG}", ROOT / "tests/reconviagen", text)


def bud(tag: str, context: Path, recipe: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".Containerfile") as file:
        file.write(recipe)
        file.flush()
        return buildah(tag, context, ["-f", file.name])


def buildah(tag: str, context: Path, options: list[str]) -> str:
    """Builds an image; layers whose inputs are the same are taken from the last time. Returns its id."""
    common = ["--quiet", "--isolation", "chroot", "--layers", "--tag", tag]
    return node.run("buildah", "bud", *common, *options, str(context)).strip().splitlines()[-1]


def give(tag: str, identity: str) -> None:
    """Imports an image into the node's containerd, unless it has the same manifest; only missing layers are copied."""
    state = node.NODE / "images.json"
    known = node.read_json(state, {"tags": {}, "blobs": []})
    if known["tags"].get(tag) == identity:
        return
    print(f"importing {tag}", flush=True)
    layout = CACHE / "layout"
    node.run("buildah", "push", "--quiet", "--disable-compression", tag, f"oci:{layout}:{tag}")
    blobs = blobs_of(layout, tag)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        archive = Path(folder) / "image.tar"
        write_archive(archive, layout, tag, [blob for blob in blobs if blob not in known["blobs"]])
        node.containerd("images", "import", str(archive))
    known["tags"][tag] = identity
    node.write_json(state, {"tags": known["tags"], "blobs": sorted({*known["blobs"], *blobs})})


def manifest_of(layout: Path, tag: str) -> dict[str, Any]:
    """Descriptor of a tag's manifest in an OCI layout's index."""
    listed = json.loads((layout / "index.json").read_text())["manifests"]
    return next(m for m in listed if m.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag)


def blobs_of(layout: Path, tag: str) -> list[str]:
    """Every digest that an image consists of: manifest, configuration, layers."""
    descriptor = manifest_of(layout, tag)
    manifest = json.loads(blob(layout, descriptor["digest"]).read_text())
    return [descriptor["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]


def blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def write_archive(archive: Path, layout: Path, tag: str, blobs: list[str]) -> None:
    """An OCI archive of one image, with these of its blobs."""
    named = manifest_of(layout, tag)
    named["annotations"]["io.containerd.image.name"] = tag
    index = json.dumps({"schemaVersion": 2, "manifests": [named]}).encode()
    with tarfile.open(archive, "w") as file:
        for name, data in (("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'), ("index.json", index)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
        for digest in blobs:
            file.add(blob(layout, digest), str(blob(layout, digest).relative_to(layout)))
