"""A node that answers names, with all that belongs to it, in network namespaces of a test's own.

pod  10.0.5.2 ──┐                                       ┌── upstream 192.0.2.53 (and .54): the outside's DNS
                ├── bridge 10.0.5.1 ── host ── 192.0.2.1 ┤
pod2 10.0.5.3 ──┘        etcd, overlay services          └── stranger 192.0.2.66: somebody on the network
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.namespaces import Namespace, namespace

ADDRESS = "169.254.20.10"
UPSTREAM, UPSTREAM_TOO, STRANGER, HOST = "192.0.2.53", "192.0.2.54", "192.0.2.66", "192.0.2.1"
LIMIT = 60.0
SEARCH = "search default.svc.cluster.local svc.cluster.local cluster.local"

_ETCD = "http://127.0.0.1:2379"


def until(condition: Callable[[], object], what: str, limit: float = LIMIT) -> None:
    """Waits for it."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit:g} s: {what}"
        time.sleep(0.05)


@dataclass
class DnsSite:
    """A site that is up.

    Attributes:
        folder: logs and data.
    """

    folder: Path
    host: Namespace
    pod: Namespace
    other: Namespace
    upstream: Namespace
    stranger: Namespace
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    # --- programs ---

    def start(self, name: str, where: Namespace, *command: str) -> None:
        """Starts a program that ends with the test."""
        with (self.folder / f"{name}.log").open("ab") as log:
            entered = ["nsenter", f"--net=/run/netns/{where.name}", "setpriv", "--pdeathsig", "KILL", *command]
            self.processes[name] = subprocess.Popen(entered, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(LIMIT)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def start_etcd(self) -> None:
        self.start("etcd", self.host, "etcd", "--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync")
        until(lambda: self._etcdctl("get", "x").returncode == 0, "etcd answers")

    def start_upstream(self, name: str = "upstream", address: str = UPSTREAM) -> None:
        (self.folder / f"{name}.asked").unlink(missing_ok=True)
        command = (sys.executable, "-m", "tests.support.upstream_server", address, str(self.folder / f"{name}.asked"))
        self.start(name, self.upstream, *command)
        until((self.folder / f"{name}.asked").exists, f"{name} answers")

    def asked(self, name: str = "upstream") -> list[str]:
        """What an upstream was asked: name, type and how."""
        return (self.folder / f"{name}.asked").read_text().splitlines()

    def start_services(self, *flags: str, ready: bool = True) -> None:
        self.start(
            "services", self.host, sys.executable, "-m", "overlay", "services", "--node-name", "n1",
            "--etcd-endpoints", _ETCD, "--state-dir", str(self.folder / "run"), "--docker-socket", "/nonexistent",
            "--subnet-file", str(self.folder / "subnet.env"), "--pods-dir", str(self.folder / "pods.d"),
            "--dns-upstreams", f"{UPSTREAM},{UPSTREAM_TOO}", *flags,
        )  # fmt: skip
        if ready:
            until(lambda: (self.report() or {}).get("dns", {}).get("answers"), "names are answered")

    def report(self) -> dict[str, Any] | None:
        command = (sys.executable, "-m", "overlay", "services", "--status", "--state-dir", str(self.folder / "run"))
        done = self.host.attempt(*command)
        return json.loads(done.stdout) if done.stdout else None

    def workers(self) -> list[int]:
        """Process ids of the DNS worker."""
        found = subprocess.run(
            ["pgrep", "-P", str(self.processes["services"].pid), "-f", "overlay.services.dns.worker"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return [int(each) for each in found.stdout.split()]

    # --- objects ---

    def _etcdctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        entered = ["nsenter", f"--net=/run/netns/{self.host.name}", "etcdctl", "--endpoints", _ETCD, *arguments]
        environment = {**os.environ, "ETCDCTL_API": "3"}
        return subprocess.run(entered, capture_output=True, text=True, check=False, env=environment)

    def put(self, name: str, namespace: str = "default", **spec: Any) -> None:
        """Writes a Service."""
        metadata = {"name": name, "namespace": namespace, "uid": f"u-{name}"}
        document = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
        done = self._etcdctl("put", f"/overlay/objects/services/{namespace}/{name}", json.dumps(document))
        assert done.returncode == 0, done.stderr

    def delete(self, name: str, namespace: str = "default") -> None:
        assert self._etcdctl("del", f"/overlay/objects/services/{namespace}/{name}").returncode == 0

    def keys(self, prefix: str) -> list[str]:
        """What keys etcd has that begin so, in order."""
        return self._etcdctl("get", "--prefix", "--keys-only", prefix).stdout.split()

    def put_pod(self, ident: str, address: str, app: str, **spec: Any) -> None:
        """Makes a pod of this node."""
        document = {"metadata": {"name": ident, "labels": {"app": app}}, "spec": spec, "status": {"podIP": address}}
        path = self.folder / "pods.d" / f"{ident}.json"
        path.with_suffix(".new").write_text(json.dumps(document))
        path.with_suffix(".new").rename(path)

    def remove_pod(self, ident: str) -> None:
        (self.folder / "pods.d" / f"{ident}.json").unlink()

    # --- asking ---

    def resolving(self, *command: str, options: str = "ndots:5") -> list[str]:
        """A command line in the pod, whose resolver asks us."""
        path = self.folder / "resolv.conf"
        path.write_text(f"{SEARCH}\nnameserver {ADDRESS}\noptions {options}\n")
        script = f'mount --bind {path} /etc/resolv.conf && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", *command]

    def dig(self, *arguments: str, where: Namespace | None = None) -> str:
        """What dig prints. It sends no cookie, so that the same question has the same bytes."""
        done = (where or self.pod).attempt("dig", f"@{ADDRESS}", "+nocookie", "+tries=1", "+time=5", *arguments)
        return done.stdout

    def short(self, *arguments: str, where: Namespace | None = None) -> list[str]:
        """The data that dig prints."""
        return sorted(self.dig("+short", *arguments, where=where).split("\n"))[1:]


@contextmanager
def dns_site() -> Iterator[DnsSite]:
    """The site, with etcd and an upstream; names are answered once the test starts the services."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="overlay-test-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        host, pod, other, up, far = (
            stack.enter_context(namespace(each)) for each in ("host", "pod", "pod2", "up", "far")
        )  # fmt: skip
        site = DnsSite(folder, host, pod, other, up, far)
        (folder / "pods.d").mkdir()
        (folder / "run").mkdir()
        (folder / "subnet.env").write_text(
            "FLANNEL_NETWORK=10.0.0.0/16\nFLANNEL_SUBNET=10.0.5.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"
        )
        _wire(site)
        try:
            site.start_etcd()
            site.start_upstream()
            yield site
        except BaseException:
            print(f"--- services\n{site.log('services')[-4000:]}" if "services" in site.processes else "")
            raise
        finally:
            for process in site.processes.values():
                process.kill()
            for process in site.processes.values():
                process.wait()


def _wire(site: DnsSite) -> None:
    site.host.batch("link add br0 type bridge\naddr add 10.0.5.1/24 dev br0\nlink set br0 up\n")
    for number, pod in ((2, site.pod), (3, site.other)):
        site.host.batch(
            f"link add p{number} type veth peer name eth0 netns {pod.name}\nlink set p{number} master br0 up\n"
        )
        pod.batch(f"addr add 10.0.5.{number}/24 dev eth0\nlink set eth0 up\nroute add default via 10.0.5.1\n")
    site.upstream.batch("link add lan type bridge\nlink set lan up\naddr add 192.0.2.53/24 dev lan\n")
    site.upstream.batch("addr add 192.0.2.54/24 dev lan\n")
    for name, space, address in (("to-host", site.host, HOST), ("to-far", site.stranger, STRANGER)):
        site.upstream.batch(
            f"link add {name} type veth peer name lan netns {space.name}\nlink set {name} master lan up\n"
        )
        space.batch(f"addr add {address}/24 dev lan\nlink set lan up\n")
    site.stranger.batch(f"route add default via {HOST}\n")
