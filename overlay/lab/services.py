"""Kubernetes' objects in a lab: ``overlay services`` on every node, and what this machine's kubectl says of its pods.

The lab's pods are no containers, so they are told by files, as CNI plugins and podman tell of theirs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from overlay.daemon.status_socket import ask
from overlay.errors import LabError, OverlayError
from overlay.lab.cluster import Lab
from overlay.lab.machine import Node
from overlay.lab.process import poll
from overlay.lab.shell import overlay_command, run

KUBECTL = "kubectl"

_READY_SECONDS = 30.0

_SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "lab"},
    "spec": {"selector": {"app": "lab"}, "ports": [{"port": 80}]},
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
