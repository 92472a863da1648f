"""A real one-node Kubernetes with Argo Workflows and MinIO, built from Go modules and run inside namespaces of its own.

build.py     the servers' binaries, cached outside the repository by version
node.py      the node: starts and ends all servers inside one PID, mount and network namespace
images.py    container images, built with buildah over a debootstrap base, and imported without a registry
install.py   what runs inside: CoreDNS, MinIO, the Argo controller and server, the chart

client.py    what the tests do to it, by the commands that a user has

`python -m tests.cluster up | down | build | install | manifests`. Root on Debian with Go; see `PACKAGES` in node.py.
"""
