"""Two nodes with agents, Services and pods, one machine outside, and an oracle of what each connection is to meet.

    out (172.31.0.100, etcd too) ── underlay ──┬── n1 ── docker0 ── n1p1, n1p2
                                               └── n2 ── docker0 ── n2p1, n2p2

``out`` routes the service CIDR and external addresses to n1. Pods answer who they are, and whom they see.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

from overlay.daemon.status_socket import ask
from overlay.errors import OverlayError
from overlay.lab.cluster import Lab
from overlay.lab.machine import Node
from overlay.lab.process import Process, poll
from overlay.lab.shell import overlay_command
from overlay.services import facts, facts_of
from overlay.services.facts import Pod, Service, ServiceName, WrittenEndpoint
from overlay.services.meeting import Meeting, meets
from overlay.services.objects.document import Object, encode
from overlay.services.proxy.ebpf import programs
from overlay.services.table import Place, Table
from overlay.services.table_maker import TableMaker
from tests.support.cgroup import cgroup, words_in

PORT = 8080
"""At which pods answer."""

ECHO_PORT = 8081
"""At which a connection stays, and what comes is sent back."""

EXTERNAL, BALANCER = "198.51.100.7", "198.51.100.9"
BRIDGES = "/proc/sys/net/bridge/bridge-nf-call-iptables"
LIMIT = 60.0


@dataclass
class Client:
    """Asks from one machine; see :mod:`tests.support.answering`."""

    process: subprocess.Popen[str]

    def ask(self, protocol: str, address: str, port: int, **more: Any) -> list[Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"protocol": protocol, "address": address, "port": port, **more}), file=self.process.stdin,
              flush=True)  # fmt: skip
        answers: list[Any] = json.loads(self.process.stdout.readline())
        return answers


@dataclass
class ServicesLab:
    """A lab whose nodes' services daemons run in one proxy mode.

    Attributes:
        pods: documents by name, as they are in pods.d.
        services: documents by name, as they are in etcd.
    """

    lab: Lab
    mode: str
    pods: dict[str, Object] = field(default_factory=dict)
    services: dict[str, Object] = field(default_factory=dict)
    daemons: dict[str, Process] = field(default_factory=dict)
    servers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _addresses: dict[str, frozenset[str]] = field(default_factory=dict)
    _bridges_seen: bool = False
    _clients: dict[str, Client] = field(default_factory=dict)
    _cgroups: dict[str, Path] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    # --- making it ---

    def up(self) -> None:
        for pod in self.lab.pods:
            self.serve(pod.name)
            self.put_pod(pod.name)
        for node in self.lab.nodes:
            self.set_bridges(node, seen=False)
            # What "out" sends to a ClusterIP leaves as it came; a redirect would use up what ICMP may say in a second.
            node.run("sh", "-c", "for each in /proc/sys/net/ipv4/conf/*/send_redirects; do echo 0 >$each; done")
            self.start_daemon(node)
        out = self.lab.etcd
        for network in ("10.96.0.0/12", "198.51.100.0/24"):
            out.run("ip", "route", "add", network, "via", str(self.lab.node("n1").address))
        self.wait_for_pods()

    def close(self) -> None:
        for daemon in self.daemons.values():
            daemon.kill()
        self._stack.close()

    def start_daemon(self, node: Node, *flags: str) -> None:
        directory = node.files.directory
        self.daemons[node.name] = node.spawn(
            overlay_command(), "services", "--etcd-endpoints", self.lab.spec.endpoint, "--node-name", node.name,
            "--node-id", node.name, "--subnet-file", str(node.files.subnet_file), "--state-dir", str(directory),
            "--docker-socket", str(directory / "no-docker"), "--pods-dir", str(directory / "pods.d"),
            "--proxy-mode", self.mode, *self._cgroup_flags(node.name), *flags,
            log="services",
        )  # fmt: skip

    def _cgroup_flags(self, node: str) -> tuple[str, ...]:
        return ("--proxy-cgroup", str(self.cgroup(node))) if self.mode == "ebpf" else ()

    def cgroup(self, node: str) -> Path:
        """Of all processes of a node, and of its pods."""
        if node not in self._cgroups:
            self._cgroups[node] = made = self._stack.enter_context(cgroup(node))
            self._stack.callback(programs.remove, made)
        return self._cgroups[node]

    def set_bridges(self, node: Node, *, seen: bool) -> None:
        """Whether netfilter sees what passes a bridge alone (``br_netfilter``); no change without the module."""
        node.run("sh", "-c", f"test ! -e {BRIDGES} || echo {int(seen)} >{BRIDGES}")
        self._bridges_seen = seen

    def serve(self, name: str, *ports: int) -> subprocess.Popen[bytes]:
        """Starts the server of a machine."""
        process = self.lab.machine(name).popen(
            sys.executable, "-m", "tests.support.answering", "serve", name, *map(str, ports or (PORT,)),
            f"echo:{ECHO_PORT}",
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        self.servers[name] = process
        return process

    def remove_pod(self, name: str) -> None:
        """Removes a pod's file, as a CNI plugin would."""
        document = self.pods.pop(name)
        (self.lab.node(document["spec"]["nodeName"]).files.directory / "pods.d" / f"{name}.json").unlink()

    # --- what there is ---

    def put_pod(self, name: str, *, ready: bool = True, terminating: bool = False, labels: Any = None) -> None:
        """Writes a pod's file, as a CNI plugin would."""
        pod = next(pod for pod in self.lab.pods if pod.name == name)
        node = self.lab.node(pod.spec.node)
        metadata: dict[str, Any] = {"name": name, "namespace": "default", "uid": name,
                                    "labels": labels or {"app": "web", "name": name}}  # fmt: skip
        if terminating:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        document = {
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": node.name},
            "status": {"podIP": str(pod.address), "phase": "Running",
                       "conditions": [{"type": "Ready", "status": str(ready)}]},
        }  # fmt: skip
        directory = node.files.directory / "pods.d"
        directory.mkdir(exist_ok=True)
        (directory / f"{name}.new").write_text(json.dumps(document))
        (directory / f"{name}.new").rename(directory / f"{name}.json")
        self.pods[name] = document

    def put_service(self, name: str, status: Any = None, scheduler: str = "", **spec: Any) -> Object:
        """Writes a Service as the API would store it, and waits until both nodes do what it says."""
        number = sorted({*self.services, name}).index(name)
        address = spec.pop("clusterIP", f"10.96.7.{number + 1}")
        document = {
            "apiVersion": "v1", "kind": "Service", "status": {"loadBalancer": status or {}},
            "metadata": {"name": name, "namespace": "default", "uid": name,
                         "annotations": {facts.SCHEDULER: scheduler} if scheduler else {}},
            "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "selector": {"app": "web"},
                     "ports": [{"port": 80, "targetPort": PORT}], **spec},
        }  # fmt: skip
        self.services[name] = document
        self._put(f"/overlay/objects/services/default/{name}", document)
        return document

    def delete_service(self, name: str) -> None:
        del self.services[name]
        self._change("del", f"/overlay/objects/services/default/{name}")

    def _put(self, key: str, document: Object) -> None:
        self._change("put", key, json.dumps(document))

    def _change(self, *command: str) -> None:
        done = json.loads(self.lab.etcd.run("etcdctl", "-w", "json", *command).stdout)
        self.wait(done["header"]["revision"])

    def wait(self, revision: int) -> None:
        """Until what was in etcd then is what all nodes that run have programmed."""

        def done() -> bool:
            return all(self.report(name)["proxy"].get("revision", 0) >= revision for name in self.daemons)

        assert poll(done, LIMIT), {name: self.report(name) for name in self.daemons}

    def wait_for_pods(self) -> None:
        """Until all pods are in etcd as their files are, and programmed."""

        def registered() -> int:
            found = json.loads(self.lab.etcd.run("etcdctl", "get", "--prefix", "/overlay/pods/", "-w", "json").stdout)
            pods = [(json.loads(b64decode(kv["value"])), kv["mod_revision"]) for kv in found.get("kvs", [])]
            there = {pod["metadata"]["name"]: _gist(pod) for pod, _ in pods}
            right = there == {name: _gist(pod) for name, pod in self.pods.items()}
            return max((revision for _, revision in pods), default=0) if right else 0

        assert poll(lambda: registered() > 0, LIMIT), [self.report(name) for name in self.daemons]
        self.wait(registered())

    def report(self, node: str) -> dict[str, Any]:
        """What a node's daemon says of itself; nothing much while it is starting."""
        try:
            return ask(self.lab.node(node).files.directory, "services")
        except OverlayError:
            return {"proxy": {}, "problems": ["none yet"]}

    # --- asking, and what should come of it ---

    def client(self, machine: str) -> Client:
        """The one of a machine, for one thread at a time."""
        if machine not in self._clients:
            self._clients[machine] = self.new_client(machine)
        return self._clients[machine]

    def new_client(self, machine: str) -> Client:
        return self.client_in(self.lab.machine(machine).namespace, self.node_of(machine))

    def client_in(self, namespace: str, node: str | None) -> Client:
        """One in any network namespace, among the processes of a node."""
        return Client(self.python_in(namespace, node, "ask"))

    def python_in(self, namespace: str, node: str | None, *words: str) -> subprocess.Popen[str]:
        """A process of :mod:`tests.support.answering` there."""
        argv = ["nsenter", f"--net=/run/netns/{namespace}", sys.executable, "-m", "tests.support.answering", *words]
        if node is not None and self.mode == "ebpf":
            argv = words_in(self.cgroup(node), None, *argv)
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def node_of(self, machine: str) -> str | None:
        """On which node a machine is; None: outside."""
        if machine in self.pods:
            return str(self.pods[machine]["spec"]["nodeName"])
        return machine if machine in {node.name for node in self.lab.nodes} else None

    def meets(self, machine: str, node: str, address: str, port: int, protocol: str = "TCP") -> Meeting:
        """What a connection from a machine is to meet on a node."""
        return meets(self.table(node), self.source(machine), IPv4Address(address), port, protocol)

    def source(self, machine: str) -> IPv4Address:
        """The address that a machine sends from."""
        for node in self.lab.nodes:
            if node.name == machine:
                return node.address
        if machine in self.pods:
            return IPv4Address(self.pods[machine]["status"]["podIP"])
        return self.lab.spec.etcd_address.ip

    def table(self, node: str) -> Table:
        """What a node's table is to be, from the documents."""
        known = _Known(
            {("default", name): facts_of.service(each) for name, each in self.services.items()},
            [facts_of.pod(f"/overlay/pods/{each['spec']['nodeName']}/{name}", encode(each))
             for name, each in self.pods.items()],
        )  # fmt: skip
        if node not in self._addresses:
            shown = json.loads(self.lab.node(node).run("ip", "-j", "-4", "addr").stdout)
            own = (info["local"] for link in shown for info in link["addr_info"])
            self._addresses[node] = frozenset(each for each in own if not each.startswith("127."))
        place = Place(node, (self.lab.spec.network,), self._addresses[node], bridged=self.bridged(node))
        return TableMaker().make(known, place)

    def bridged(self, node: str) -> tuple[IPv4Network, ...]:
        subnet = self.lab.node(node).subnet_file
        assert subnet is not None
        return () if self._bridges_seen else (subnet.gateway.network,)

    def pod_named(self, address: str) -> str:
        """Which pod has an address."""
        return next(name for name, pod in self.pods.items() if pod["status"]["podIP"] == address)


def _gist(pod: Object) -> Any:
    return (
        pod["status"].get("podIP"), pod["metadata"]["labels"], pod["metadata"].get("deletionTimestamp") is None,
        [each["status"] for each in pod["status"]["conditions"] if each["type"] == "Ready"],
    )  # fmt: skip


@dataclass
class _Known:
    services: Mapping[ServiceName, Service]
    pods: list[Pod]

    def selected(self, name: ServiceName) -> list[Pod]:
        return [each for each in self.pods if self.services[name].selects(each.labels)]

    def written(self, name: ServiceName) -> list[WrittenEndpoint]:
        return []


@dataclass(frozen=True)
class Fault:
    """A connection that was not answered: when it began (CLOCK_MONOTONIC), and what came of it."""

    at: float
    what: Any


_PACE_SECONDS = 0.01
"""From one answer to the next question. A host has 28,232 ports to ask from, and what is masqueraded leaves from one
at random: beyond some 200 a second, many are still kept by the server as connections that have ended (TIME-WAIT, a
minute), and it answers a new one's SYN as if it were theirs (RFC 9293, 3.10.7.4). Three such attempts are two seconds
long."""


class Steadily:
    """Asks one address again and again, from its beginning to its end; keeps what was no answer."""

    def __init__(self, lab: ServicesLab, machine: str, address: str, port: int, patience: float = 2.0) -> None:
        self._client = lab.new_client(machine)
        self._where = address, port
        self._patience = patience
        self._ends = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self.faults: list[Fault] = []
        self.asked = 0

    def _run(self) -> None:
        while not self._ends.is_set():
            begun = time.monotonic()
            (answer,) = self._client.ask("TCP", *self._where, patience=self._patience)
            self.asked += 1
            if not isinstance(answer, dict):
                self.faults.append(Fault(begun, answer))
            self._ends.wait(_PACE_SECONDS)

    def later_than(self, moment: float) -> list[Fault]:
        """Of connections that began only then."""
        return [fault for fault in self.faults if fault.at > moment]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()


class Held:
    """One connection, busy from its beginning to its end; ``outcome`` is what became of it then."""

    def __init__(self, lab: ServicesLab, machine: str, address: str, port: int) -> None:
        namespace, node = lab.lab.machine(machine).namespace, lab.node_of(machine)
        self._process = lab.python_in(namespace, node, "hold", address, str(port))
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "held\n"
        self.outcome: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        printed = self._process.communicate("\n", timeout=LIMIT)[0]
        self.outcome = json.loads(printed)


@contextmanager
def services_lab(lab: Lab, mode: str) -> Iterator[ServicesLab]:
    """Makes Services work in a lab that is up."""
    made = ServicesLab(lab, mode)
    try:
        made.up()
        yield made
    except BaseException:
        for node in lab.nodes:
            print(f"--- {node.name}\n{node.files.last_words('services')[-3000:]}")
        raise
    finally:
        made.close()
