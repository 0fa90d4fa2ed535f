"""The session of docs/kubectl.md, typed on a node of two with the real Docker, etcd, systemd and kubectl.

n1 172.31.0.1      n2 172.31.0.2          etcd 172.31.0.100
overlay            overlay                                      containers with the session's labels on both
overlay-services   overlay-services
overlay-api        kubectl on n1

What the page shows is what is printed, but for addresses, ages, and the ids in pods' names. Of ``describe``, which each
version of kubectl words anew, those lines that all have.
"""

from __future__ import annotations

import re
import shutil

import pytest

from tests.support.docker import IMAGE, start_docker
from tests.support.etcd import do_without
from tests.support.site import SETTINGS, SOURCE, settings, wait_for_agent
from tests.support.systemd import Booted, wait_until
from tests.system.conftest import MakeSite

pytestmark = pytest.mark.root

LIMIT = 120.0
KUBECONFIG = "/run/overlay/api/kubeconfig"

CONTAINERS = (
    (0, "redis", {"app": "redis", "role": "logstor"}),
    (0, "web1", {"app": "myapp", "release": "canary"}),
    (1, "web2", {"app": "myapp", "release": "canary"}),
    (1, "web3", {"app": "myapp", "release": "canary"}),
    (1, "other", {"app": "myapp-old", "release": "stable"}),
)
"""On which node, under which name, with which labels."""


ALWAYS_DESCRIBED = (
    "Name", "Namespace", "Labels", "Selector", "Type", "IP", "Port", "TargetPort", "Endpoints", "Session Affinity",
    "Events",
)  # fmt: skip


def page() -> list[tuple[str, str]]:
    """What the page types, and what it shows of that."""
    section = (SOURCE / "docs/kubectl.md").read_text().split("## A session")[1].split("\n## ")[0]
    text = "".join(re.findall(r"```console\n(.*?)```", section, re.DOTALL))
    typed = [piece.partition("\n") for piece in re.split(r"^# ", text, flags=re.MULTILINE) if piece.strip()]
    return [(command, printed) for command, _, printed in typed]


def shape(printed: str) -> list[str]:
    """Its lines, with what differs from day to day taken out, and without how wide columns are."""
    for pattern, word in (
        (r"\b\d+\.\d+\.\d+\.\d+\b", "ADDRESS"),
        (r"\b(redis|web\d|other)-[0-9a-f]{5}\b", r"\1-ID"),
        (r"\b(\d+[smhd])+(?=\s|$)", "AGE"),
    ):
        printed = re.sub(pattern, word, printed, flags=re.MULTILINE)
    return [" ".join(line.split()) for line in printed.strip().splitlines()]


def kubectl(node: Booted, *words: str) -> str:
    command = ("env", f"KUBECONFIG={KUBECONFIG}", "kubectl", "--cache-dir=/tmp/cache", *words)
    return node.run(*command, timeout=LIMIT).stdout


def type_in(node: Booted, command: str) -> str:
    """What a line of the page prints, typed in its folder of examples."""
    script = f"cd /root; export KUBECONFIG={KUBECONFIG}; {command}"
    return node.run("sh", "-ec", script, timeout=LIMIT).stdout


def test_the_page_is_what_happens(make_site: MakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("kubectl") is None:
        do_without("kubectl (package kubernetes-client, from Debian 13 on kubectl)")
    files = {f"/root/{file.name}": file.read_text() for file in (SOURCE / "docs/examples").glob("*.yaml")}
    made = make_site(nodes=2, files=files)
    for number, node in enumerate(made.nodes, 1):
        node.write(SETTINGS, settings(made.lab, OVERLAY_NODE_NAME=f"n{number}"))
        start_docker(node)
        wait_for_agent(node, LIMIT)
        node.systemctl("start", "overlay-services")
    for number, name, labels in CONTAINERS:
        flags = [flag for key, value in labels.items() for flag in ("--label", f"{key}={value}")]
        made.nodes[number].run("docker", "run", "--detach", "--name", name, *flags, IMAGE, "sleep", "86400")
    first = made.nodes[0]
    first.systemctl("start", "overlay-api")
    wait_until(lambda: kubectl(first, "get", "pods").count(" Running ") == len(CONTAINERS), LIMIT, "all pods")

    for command, shown in page():
        printed = type_in(first, command)
        with capsys.disabled():
            print(f"# {command}\n{printed}", end="")
        if " describe " in command:
            lasting = [line for line in shape(shown) if line.partition(":")[0] in ALWAYS_DESCRIBED]
            assert len(lasting) == len(ALWAYS_DESCRIBED)
            assert not set(lasting) - set(shape(printed)), printed
        else:
            assert shape(printed) == shape(shown), command

    addresses = set(re.findall(r"10\.0\.\d+\.\d+", kubectl(first, "get", "endpoints", "myapp-svc")))
    assert len(addresses) == 3, "endpoints on both nodes"
    made.nodes[1].run("docker", "rm", "--force", "web3")
    wait_until(lambda: kubectl(first, "get", "endpoints", "myapp-svc").count(":80") == 2, LIMIT, "an endpoint less")
