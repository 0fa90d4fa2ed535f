"""A Docker host in namespaces: a real dockerd and a real etcd on a network, a process tree and a /run of their own.

All of it ends with its first process, and that ends with the test run, even where it is killed; outside are left a
folder of the test's own and a cgroup, which :func:`docker_host` removes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.docker import IMAGE, missing_for_docker
from tests.support.etcd import do_without
from tests.support.systemd import wait_until

SUBNET = "10.0.5.0/24"
NODE_ADDRESS = "172.31.0.1"
ETCD = "http://127.0.0.1:2379"

_ENTRY = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mkdir -p /run/lock /run/flannel
ip link set lo up
printf '%s\\n' FLANNEL_NETWORK=10.0.0.0/16 FLANNEL_SUBNET=10.0.5.1/24 FLANNEL_MTU=1472 >/run/flannel/subnet.env
exec sleep infinity
"""

_IMAGE = f"""
set -e
root=$(mktemp -d)
mkdir $root/bin $root/tmp $root/proc $root/etc
cp /bin/busybox $root/bin/busybox
for tool in sh sleep test touch rm false nslookup cat; do ln -s busybox $root/bin/$tool; done
tar -C $root -c . | docker import - {IMAGE}
rm -rf $root
"""

_START_SECONDS = 60.0


@dataclass
class DockerHost:
    """A host that is up.

    Attributes:
        pid: of its first process.
        folder: of its own, for logs and data.
    """

    pid: int
    folder: Path
    cgroup: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def inside(self, *command: str) -> list[str]:
        """A command line that runs inside."""
        return ["nsenter", f"--target={self.pid}", "-m", "-p", "-n", *command]

    def run(self, *command: str, check: bool = True) -> str:
        """What a command prints that runs inside."""
        done = subprocess.run(
            self.inside(*command), capture_output=True, text=True, timeout=_START_SECONDS, check=False,
            env={**os.environ, "ETCDCTL_API": "3"},
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Starts a program inside, under a name; its output goes to ``folder``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                self.inside("setpriv", "--pdeathsig", "KILL", *command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes[name] = process
        return process

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends what :meth:`start` started."""
        process = self.processes.pop(name)
        # Not nsenter, which waits for it and would pass no signal on.
        for child in _children(process.pid):
            os.kill(child, number)
        process.wait(_START_SECONDS)

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """While it lasts, what :meth:`start` started does nothing."""
        children = _children(self.processes[name].pid)
        try:
            for child in children:
                os.kill(child, signal.SIGSTOP)
            yield
        finally:
            for child in children:
                os.kill(child, signal.SIGCONT)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def docker(self, *arguments: str, check: bool = True) -> str:
        return self.run("docker", *arguments, check=check).strip()

    def etcdctl(self, *arguments: str) -> str:
        return self.run("etcdctl", "--endpoints", ETCD, *arguments)

    def start_etcd(self) -> None:
        """On the data that it has."""
        self.start("etcd", "etcd", "--data-dir", str(self.folder / "etcd"))
        wait_until(lambda: "healthy" in self._etcd_health(), _START_SECONDS, "etcd")

    def _etcd_health(self) -> str:
        done = subprocess.run(
            self.inside("etcdctl", "--endpoints", ETCD, "endpoint", "health"),
            capture_output=True, text=True, check=False, env={**os.environ, "ETCDCTL_API": "3"},
        )  # fmt: skip
        return done.stdout + done.stderr if done.returncode == 0 else ""

    def start_docker(self, *options: str) -> None:
        """On the containers that it has; on this node's subnet."""
        self.start(
            "dockerd", "dockerd", "--data-root", str(self.folder / "docker"), "--bip", "10.0.5.1/24",
            "--iptables=false", "--storage-driver", "vfs", "--exec-opt", "native.cgroupdriver=cgroupfs",
            "--cgroup-parent", f"/{self.cgroup}", *options,
        )  # fmt: skip
        wait_until(
            lambda: bool(self.docker("version", "-f", "{{.Server.Version}}", check=False)), _START_SECONDS, "dockerd"
        )

    def container(self, *arguments: str, command: tuple[str, ...] = ("sleep", "86400")) -> str:
        """Starts a container; returns its id."""
        return self.docker("run", "--detach", *arguments, IMAGE, *command)

    def pods(self) -> dict[str, dict[str, object]]:
        """The pods in etcd by their names."""
        lines = self.etcdctl("get", "--prefix", "/overlay/pods/", "--print-value-only").splitlines()
        return {pod["metadata"]["name"]: pod for pod in map(json.loads, filter(None, lines))}


@contextmanager
def docker_host(folder: Path) -> Iterator[DockerHost]:
    """A host with etcd and Docker running and an image to run."""
    if os.geteuid() != 0:
        do_without("root")
    if (missing := missing_for_docker()) is not None:
        do_without(missing)
    cgroup = f"overlay-test-{os.getpid()}-{time.monotonic_ns()}"
    first = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--net", "--fork", "--kill-child",
         "--mount-proc", "bash", "-c", _ENTRY],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: bool(_children(first.pid)), _START_SECONDS, "the host's first process")
        (pid,) = _children(first.pid)
        host = DockerHost(pid, folder, cgroup)
        wait_until(
            lambda: Path(f"/proc/{pid}/root/run/flannel/subnet.env").exists() and host.run("true", check=False) == "",
            _START_SECONDS, "the host's /run",
        )  # fmt: skip
        host.start_etcd()
        host.etcdctl(
            "put", f"/coreos.com/network/subnets/{SUBNET.replace('/', '-')}", f'{{"PublicIP":"{NODE_ADDRESS}"}}'
        )
        host.start_docker()
        host.run("sh", "-c", _IMAGE)
        try:
            yield host
        except BaseException:
            for name in ("services", "dockerd"):
                with contextlib.suppress(OSError):
                    print(f"--- {name}\n{host.log(name)[-4000:]}")
            raise
    finally:
        first.kill()
        first.wait()
        _remove_groups(cgroup)
        shutil.rmtree(folder, ignore_errors=True)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _remove_groups(name: str) -> None:
    """Waits for it: a group can be removed once its last process has gone, which takes a moment after its end."""
    groups = [root / name for root in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/"))]

    def gone() -> bool:
        for group in (group for group in groups if group.is_dir()):
            for each in sorted((group, *group.rglob("*/")), key=lambda path: -len(path.parts)):
                with contextlib.suppress(OSError):
                    each.rmdir()
        return not any(group.is_dir() for group in groups)

    wait_until(gone, _START_SECONDS, f"no cgroup {name}")
