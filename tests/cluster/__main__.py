"""`python -m tests.cluster up | down | build | install | manifests`."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

from pipeline.workflow.helm_render import write
from tests.cluster import build, images, install, node
from tests.cluster.places import BIN, KUBECONFIG, ROOT


def up() -> None:
    """A running cluster with everything in it. What is there already, and still right, is kept. The product's images are built
    beside the servers: much of it is downloads."""
    begun, seconds_after = time.monotonic(), {}
    with ThreadPoolExecutor(1) as beside:
        product = beside.submit(images.product)
        for name, phase in (
            ("servers", build.build),
            ("node", node.up),
            ("images", lambda: images.ensure(product.result())),
            ("install", install.install),
        ):
            phase()
            seconds_after[name] = time.monotonic() - begun
    print(
        "seconds until each was done: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in seconds_after.items())
    )
    print(f"export KUBECONFIG={KUBECONFIG}\nexport PATH={BIN}:$PATH")


def into() -> None:
    """Installs everything into the cluster that KUBECONFIG names."""
    build.build(("helm", "kubectl", "argo"))
    install.install()


def manifests() -> None:
    """Writes what is rendered and committed."""
    build.build(("helm",))
    write(ROOT)
    helm = node.run(str(BIN / "helm"), "template", "sixview", str(ROOT / "charts/sixview"))
    (ROOT / "manifests/sixview.yaml").write_text(helm)


COMMANDS = {"up": up, "down": node.down, "build": build.build, "install": into, "manifests": manifests}


def main(command: str) -> None:
    if command not in COMMANDS:
        raise SystemExit(__doc__)
    if command not in ("manifests", "install") and node.missing():
        raise SystemExit(f"A cluster of one's own needs {', '.join(node.missing())}; apt-get install {node.PACKAGES}")
    COMMANDS[command]()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "")
