"""Services in a lab: ``overlay services`` on every node, what this machine's kubectl says of its pods, who answers.

The lab's pods are no containers, so they are told by files, as CNI plugins and podman tell of theirs.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

from dns.exception import DNSException
from dns.resolver import Resolver

from overlay.daemon.status_socket import ask
from overlay.errors import LabError, OverlayError
from overlay.lab.cluster import Lab
from overlay.lab.machine import Node, Pod
from overlay.lab.namespace import call_inside
from overlay.lab.process import poll
from overlay.lab.shell import overlay_command, run

KUBECTL = "kubectl"

_READY_SECONDS = 30.0

NAME = "lab.default.svc.cluster.local"
"""The Service's, in every pod."""

_PORT = 80
_CONNECTIONS = 30
_ANSWER_SECONDS = 30.0

_SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "lab"},
    "spec": {"selector": {"app": "lab"}, "ports": [{"port": _PORT}]},
}

_COMMANDS = ("get pods -o wide", "get svc,endpoints")


def kubectl_is_there() -> bool:
    """Whether this machine has a kubectl."""
    return shutil.which(KUBECTL) is not None


def start(lab: Lab) -> None:
    """Tells of the lab's pods, and starts the daemon on every node; it ends with the lab.

    Raises:
        LabError: one is not ready in time; says what it logged last.
    """
    for node in lab.nodes:
        _write_pods(_pods_directory(node), node)
        node.spawn(
            overlay_command(), "services", "--etcd-endpoints", lab.spec.endpoint, "--node-name", node.name,
            "--subnet-file", str(node.files.subnet_file), "--state-dir", str(node.files.directory),
            "--pods-dir", str(_pods_directory(node)), "--docker-socket", str(node.files.directory / "no-docker"),
            log="services", env={"FLANNELD_NODE_ID": node.name},
        )  # fmt: skip
    for node in lab.nodes:
        if not poll(lambda node=node: _is_ready(node), _READY_SECONDS):  # type: ignore[misc]
            said = node.files.last_words("services")[-300:]
            raise LabError(f"is not ready, and said last: {said}", about=f"overlay services of {node.name}")


def sessions(lab: Lab) -> Iterator[tuple[str, str]]:
    """A Service of all pods is made, and looked at: what was typed, and what kubectl printed."""
    yield "apply -f -", _kubectl(lab, "apply", "-f", "-", text=json.dumps(_SERVICE))
    for command in _COMMANDS:
        yield command, _kubectl(lab, *command.split())


@dataclass(frozen=True, slots=True)
class Answers:
    """What a pod got that asked for the Service by its name: the ClusterIP, and how often each pod answered there."""

    address: str
    by_pod: Counter[str]


def answers(lab: Lab) -> Answers:
    """Every pod serves its name, and the first one asks the Service, a connection each time.

    Raises:
        LabError: the name does not resolve, or a connection fails.
    """
    client = lab.pods[0].namespace
    with ExitStack() as stack:
        for pod in lab.pods:
            stack.enter_context(_serving_its_name(pod))
        try:
            server = ask(lab.nodes[0].files.directory, "services")["dns"]["address"]
            address = call_inside(client, lambda: _resolve(server))
            return Answers(address, Counter(call_inside(client, lambda: _ask(address)) for _ in range(_CONNECTIONS)))
        except (OSError, DNSException) as error:
            raise LabError(str(error) or type(error).__name__, about=f"{NAME} from {lab.pods[0].name}") from error


def _resolve(server: str) -> str:
    resolver = Resolver(configure=False)
    resolver.nameservers = [server]
    return str(resolver.resolve(NAME, "A", lifetime=_ANSWER_SECONDS)[0])


def _ask(address: str) -> str:
    """The name of the pod that answers."""
    with socket.create_connection((address, _PORT), timeout=_ANSWER_SECONDS) as connection:
        return connection.makefile().read()


@contextmanager
def _serving_its_name(pod: Pod) -> Iterator[None]:
    """The pod tells its name to whoever connects to its port."""
    listener = call_inside(pod.namespace, lambda: socket.create_server((str(pod.address), _PORT)))

    def serve() -> None:
        with suppress(OSError):  # closed: that is the end
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(pod.name.encode())

    server = Thread(target=serve, name=f"server of {pod.name}")
    server.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        server.join()
        listener.close()


def _kubectl(lab: Lab, *arguments: str, text: str | None = None) -> str:
    argv = [overlay_command(), "kubectl", "--etcd-endpoints", lab.spec.endpoint, *arguments]
    return run(argv, namespace=lab.nodes[0].namespace, timeout=60.0, text=text).stdout


def _pods_directory(node: Node) -> Path:
    return node.files.directory / "pods.d"


def _write_pods(directory: Path, node: Node) -> None:
    directory.mkdir(exist_ok=True)
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    for pod in node.pods:
        document = {
            "metadata": {"name": pod.name, "labels": {"app": "lab"}, "creationTimestamp": now},
            "spec": {"containers": [{"name": "lab"}]},
            "status": {
                "podIP": str(pod.address),
                "containerStatuses": [{"name": "lab", "ready": True, "restartCount": 0, "state": {"running": {}}}],
            },
        }
        (directory / f"{pod.name}.json").write_text(json.dumps(document))


def _is_ready(node: Node) -> bool:
    try:
        report = ask(node.files.directory, "services")
    except OverlayError:
        return False
    return bool(report["ready"]) and report["pods"]["here"] == len(node.pods)
