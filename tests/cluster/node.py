"""The node: every server of a one-node Kubernetes inside one PID, mount and network namespace.

Ending the namespace's first process ends all that was started in it, and the kernel then takes back its mounts, bridges and
packet filter rules: nothing can be left behind, whatever broke. From outside one reaches it over a pair of virtual
interfaces: the node at 10.199.0.2, its services and pods through it.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tests.cluster.places import BIN, KEY, KUBECONFIG, NODE, ROOT, SLOWNESS

PACKAGES = "containerd runc containernetworking-plugins iptables conntrack iproute2 openssl buildah debootstrap"
COMMANDS = "containerd runc iptables conntrack ip openssl nsenter unshare go buildah debootstrap"
OUR_END = "sixview0"  # of the pair of interfaces
OUTSIDE, INSIDE = "10.199.0.1", "10.199.0.2"
PODS, SERVICES, DNS = "10.244.0.0/16", "10.96.0.0/16", "10.96.0.10"
NAME = "node1"
CGROUPS = Path("/sys/fs/cgroup")
T = TypeVar("T")
CGROUP = "sixview"  # all pods' cgroups lie below it
GOGC = "400"  # percent: the servers spend memory, of which there is enough, instead of a node's few cores
# what the kubelet sets for the whole machine: put back by `down`
SYSCTLS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")


def missing() -> list[str]:
    """Missing programs and rights for a cluster on this machine."""
    lacks = [] if sys.platform == "linux" else ["Linux"]
    lacks += [] if hasattr(os, "geteuid") and os.geteuid() == 0 else ["root"]
    return lacks + [command for command in COMMANDS.split() if shutil.which(command) is None]


# -- outside ------------------------------------------------------------------------------------------------------------


def up() -> None:
    """Starts the node, or takes over one of the same versions that is still well."""
    if is_well():
        return
    down()
    for folder in ("pki", "log", "cni"):
        (NODE / folder).mkdir(parents=True)
    write_json(NODE / "sysctls.json", {name: (Path("/proc/sys") / name).read_text() for name in SYSCTLS})
    write_certificates()
    write_configuration()
    pid = start_namespace()
    connect(pid)
    (NODE / "connected").touch()
    wait_for(lambda: kubectl("get", "node", NAME, check=False).stdout.find(" Ready") > 0, 120, "the node to be Ready")
    # a GPU that only the scheduler sees: pods that request it queue for it as on a real node
    gpu = {"nvidia.com/gpu": "1"}
    patch = json.dumps({"status": {"capacity": gpu, "allocatable": gpu}})
    kubectl("patch", "node", NAME, "--subresource=status", "--type=merge", "-p", patch)
    (NODE / "key").write_text(KEY)


def down() -> None:
    """Stops the node and deletes its files. No error where none runs."""
    pid = namespace_pid()
    if pid:
        os.kill(pid, signal.SIGKILL)  # its child is the namespace's first process, and dies with it
        wait_for(lambda: _has_ended(pid), 30, "the node to end")
    # the kernel takes a namespace's interfaces back a little later
    subprocess.run(["ip", "link", "delete", OUR_END], capture_output=True)
    wait_for(lambda: not Path(f"/sys/class/net/{OUR_END}").exists(), 30, "the interface to go")
    wait_for(_cgroups_are_gone, 30, "the pods' cgroups to go")
    for name, value in read_json(NODE / "sysctls.json", {}).items():
        (Path("/proc/sys") / name).write_text(value)
    wait_for(_state_is_gone, 60, f"{NODE} to be removed")


def is_well() -> bool:
    """Whether a node of this checkout's versions runs and answers."""
    if namespace_pid() is None or not (NODE / "key").exists() or (NODE / "key").read_text() != KEY:
        return False
    ready = kubectl("get", "node", NAME, "--request-timeout=5s", check=False)
    return " Ready" in ready.stdout


def namespace_pid() -> int | None:
    """PID of the namespace's first process, None where none runs; checked by its start time, since PIDs are reused."""
    state = read_json(NODE / "namespace.json", {})
    if not state or _started(state["pid"]) != state["started"]:
        return None
    return int(state["pid"])


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _has_ended(pid: int) -> bool:
    """Whether the process has ended; a zombie that this process has not reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def start_namespace() -> int:
    """Makes the namespaces and starts `inside` as their first process."""
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with open(NODE / "log" / "init.log", "wb") as log:
        process = subprocess.Popen(
            [*command, sys.executable, "-m", "tests.cluster.node"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    process.returncode = 0  # it is meant to outlive us
    wait_for(lambda: _namespaces(process.pid) != _namespaces(os.getpid()), 10, "the namespaces")
    write_json(NODE / "namespace.json", {"pid": process.pid, "started": _started(process.pid)})
    return process.pid


def _namespaces(pid: int) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def connect(pid: int) -> None:
    """A pair of virtual interfaces, and routes to the node's pods and services. They vanish with the namespace."""
    run("ip", "link", "add", OUR_END, "type", "veth", "peer", "name", "uplink", "netns", str(pid))
    run("ip", "addr", "add", f"{OUTSIDE}/30", "dev", OUR_END)
    run("ip", "link", "set", OUR_END, "up")
    inner = ("nsenter", "-t", str(pid), "--net", "ip")
    run(*inner, "addr", "add", f"{INSIDE}/30", "dev", "uplink")
    for name in ("lo", "uplink"):
        run(*inner, "link", "set", name, "up")
    run(*inner, "route", "add", "default", "via", OUTSIDE)
    for network in (PODS, SERVICES):
        run("ip", "route", "add", network, "via", INSIDE)


def containerd(*arguments: str) -> str:
    """Runs ctr on the node's containerd."""
    pid = namespace_pid()
    address = ("-a", str(NODE / "containerd.sock"), "-n", "k8s.io")
    return run("nsenter", "-t", str(pid), "--mount", "ctr", *address, *arguments)


def _cgroups_are_gone() -> bool:
    for top in CGROUPS.glob(f"*/{CGROUP}"):
        for folder in sorted([top, *top.rglob("*/")], key=lambda p: -len(p.parts)):
            try:
                folder.rmdir()
            except OSError:
                return False
    return True


def _state_is_gone() -> bool:
    shutil.rmtree(NODE, ignore_errors=True)
    return not NODE.exists()


# -- what the servers read ----------------------------------------------------------------------------------------------


def write_certificates() -> None:
    """A certificate authority for this node alone, and what it signs."""
    names = "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost"
    subject_of = {
        "apiserver": ("/CN=kube-apiserver", f"{names},IP:127.0.0.1,IP:{SERVICES[:-4]}1,IP:{INSIDE}"),
        "admin": ("/O=system:masters/CN=admin", "DNS:admin"),
        "kubelet": (f"/O=system:nodes/CN=system:node:{NAME}", f"DNS:{NAME},IP:{INSIDE},IP:127.0.0.1"),
    }
    new = ("openssl", "req", "-newkey", "rsa:2048", "-nodes")
    run(*new, "-x509", "-keyout", "ca.key", "-out", "ca.crt", "-days", "365", "-subj", "/CN=ca", cwd=NODE / "pki")
    run("openssl", "genrsa", "-out", "sa.key", "2048", cwd=NODE / "pki")
    for name, (subject, alternatives) in subject_of.items():
        run(*new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject, cwd=NODE / "pki")
        (NODE / "pki" / f"{name}.ext").write_text(f"subjectAltName={alternatives}")
        sign = ("openssl", "x509", "-req", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "365")
        run(*sign, "-in", f"{name}.csr", "-out", f"{name}.crt", "-extfile", f"{name}.ext", cwd=NODE / "pki")


def kubeconfig(user: str, server: str) -> dict[str, Any]:
    """A kubeconfig that needs no other file, so that it can be given away."""
    data = {
        k: base64.b64encode((NODE / "pki" / k).read_bytes()).decode() for k in ("ca.crt", f"{user}.crt", f"{user}.key")
    }
    credentials = {"client-certificate-data": data[f"{user}.crt"], "client-key-data": data[f"{user}.key"]}
    cluster = {"server": f"https://{server}:6443", "certificate-authority-data": data["ca.crt"]}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "sixview-test", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "sixview-test", "context": {"cluster": "sixview-test", "user": user}}],
        "current-context": "sixview-test",
    }


def write_configuration() -> None:
    """Writes the servers' configuration files, as JSON, which is valid YAML."""
    write_json(KUBECONFIG, kubeconfig("admin", INSIDE))
    write_json(NODE / "kubelet.kubeconfig", kubeconfig("kubelet", "127.0.0.1"))
    write_json(NODE / "cni" / "10-bridge.conflist", _network())
    write_json(NODE / "kubelet.yaml", _kubelet())
    (NODE / "containerd.toml").write_text(_containerd())


def _network() -> dict[str, Any]:
    ipam = {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "hairpinMode": True, "ipam": ipam}
    return {"cniVersion": "1.0.0", "name": "bridge", "plugins": [bridge]}


def _kubelet() -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(NODE / "pki/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "containerRuntimeEndpoint": f"unix://{NODE}/containerd.sock",
        "failSwapOn": False,
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "tlsCertFile": str(NODE / "pki/kubelet.crt"),
        "tlsPrivateKeyFile": str(NODE / "pki/kubelet.key"),
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {},
        "syncFrequency": "10s",
    }


def _containerd() -> str:
    """restrict_oom_score_adj: without CAP_SYS_RESOURCE runc cannot lower it, and every sandbox would die at its start."""
    return f"""version = 2
root = "{NODE}/containerd/root"
state = "{NODE}/containerd/state"
[grpc]
  address = "{NODE}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{NODE}/cni"
"""


# -- inside -------------------------------------------------------------------------------------------------------------


def inside() -> None:
    """The namespace's first process, its init: starts the servers, then reaps orphaned processes."""
    run("mount", "--make-rshared", "/")  # pods' volumes have to reach their containers
    for controller in CGROUPS.iterdir():
        if (controller / "cgroup.procs").exists():
            (controller / CGROUP).mkdir(exist_ok=True)
    for name in ("cpuset.cpus", "cpuset.mems"):  # version 1 starts a cpuset empty, and nothing may run in it
        if (CGROUPS / "cpuset" / name).exists():
            (CGROUPS / "cpuset" / CGROUP / name).write_text((CGROUPS / "cpuset" / name).read_text())
    wait_for((NODE / "connected").exists, 30, "the interfaces")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    for name, command in servers().items():
        start(name, command)
        if name == "kube-apiserver":
            wait_for(lambda: kubectl("get", "--raw", "/readyz", check=False).returncode == 0, 90, "the API server")
        if name == "containerd":
            wait_for((NODE / "containerd.sock").exists, 30, "containerd")
    while True:
        pid, status = os.wait()
        print(f"process {pid} ended with status {status}", flush=True)


def start(name: str, command: list[str]) -> None:
    with open(NODE / "log" / f"{name}.log", "ab") as log:
        environment = {**os.environ, "GOGC": GOGC}
        process = subprocess.Popen(command, cwd=NODE, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    print(f"{name}: process {process.pid}", flush=True)


def servers() -> dict[str, list[str]]:
    """Every server's command, in the order in which they are started."""
    admin, etcd = f"--kubeconfig={KUBECONFIG}", "http://127.0.0.1:2379"
    commands = {
        "etcd": f"--data-dir etcd --unsafe-no-fsync --listen-client-urls {etcd} --advertise-client-urls {etcd} "
        "--listen-peer-urls http://127.0.0.1:2380",
        "kube-apiserver": f"--etcd-servers={etcd} --service-cluster-ip-range={SERVICES} --secure-port=6443 "
        "--service-account-issuer=https://kubernetes.default.svc --service-account-key-file=pki/sa.key "
        "--service-account-signing-key-file=pki/sa.key --tls-cert-file=pki/apiserver.crt "
        "--tls-private-key-file=pki/apiserver.key --client-ca-file=pki/ca.crt --authorization-mode=Node,RBAC "
        f"--allow-privileged --advertise-address={INSIDE} --kubelet-client-certificate=pki/admin.crt "
        "--kubelet-client-key=pki/admin.key --kubelet-certificate-authority=pki/ca.crt "
        "--kubelet-preferred-address-types=InternalIP",
        "kube-controller-manager": f"{admin} --service-account-private-key-file=pki/sa.key --root-ca-file=pki/ca.crt "
        "--use-service-account-credentials --leader-elect=false --authentication-skip-lookup",
        "kube-scheduler": f"{admin} --leader-elect=false",
        "containerd": "-c containerd.toml",
        "kubelet": f"--config kubelet.yaml --kubeconfig kubelet.kubeconfig --hostname-override {NAME} "
        f"--node-ip {INSIDE} --root-dir {NODE}/kubelet",
        "kube-proxy": f"{admin} --hostname-override={NAME} --cluster-cidr={PODS} --proxy-mode=iptables "
        "--conntrack-max-per-core=0",
    }
    return {name: [_program(name), *flags.split()] for name, flags in commands.items()}


def _program(name: str) -> str:
    return str(BIN / name) if (BIN / name).exists() else name


# -- helpers ------------------------------------------------------------------------------------------------------------


def run(*command: str, cwd: Path | None = None) -> str:
    """Runs a command to its end and returns what it printed. A failure tells what the command said."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} failed with {done.returncode}: {done.stderr[-2000:]}{done.stdout[-2000:]}"
        )
    return done.stdout


def kubectl(*arguments: str, check: bool = True, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs kubectl against the node. given: its standard input."""
    command = [str(BIN / "kubectl"), "--kubeconfig", os.environ.get("KUBECONFIG") or str(KUBECONFIG), *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=300)
    if check and done.returncode:
        raise RuntimeError(f"kubectl {' '.join(arguments)} failed: {done.stderr[-3000:]}")
    return done


def wait_for(
    condition: Callable[[], T | None], seconds: float, what: str | Callable[[], str], interval: float = 0.2
) -> T:
    """Asks every `interval` seconds until the condition's value is true, and returns it. Raises TimeoutError after `seconds`
    times SLOWNESS. what: what was waited for, or a function that says so at that time."""
    seconds *= SLOWNESS
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            awaited = what if isinstance(what, str) else what()
            raise TimeoutError(f"waited {seconds:.0f} s for {awaited}; the servers' logs are in {NODE}/log")
        time.sleep(interval)
    return value


def read_json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text()) if path.exists() else default


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1))


if __name__ == "__main__":
    inside()
