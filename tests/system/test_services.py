"""``overlay-services`` and ``overlay-api`` under a real systemd, with real Docker and kubectl: the session of
docs/kubectl.md, what the units may do, and what their end and start change.

n1 172.31.0.1      n2 172.31.0.2          etcd 172.31.0.100
overlay            overlay              curl: outside           containers with the session's labels on both
overlay-services   overlay-services
overlay-api        kubectl on n1
nftables           ebpf

What the page shows is what is printed, but for addresses, ages, and the ids in pods' names. Of ``describe``, which each
version of kubectl words anew, those lines that all have. One site for all tests here, in their order.

Both nodes leave their proxy mode to ``auto``. A node here is not the whole machine: n1 is not told so, and gets
nftables; n2 is told its cgroup, and takes what a machine of its own would.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.docker import IMAGE, Container, start_docker
from tests.support.etcd import do_without
from tests.support.site import SETTINGS, SOURCE, Site, installer, settings, site, wait_for_agent
from tests.support.systemd import Booted, wait_until

pytestmark = pytest.mark.root

LIMIT = 180.0

SERVICES_MAY = {
    "CAP_DAC_READ_SEARCH": 2, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SETPCAP": 8,
    "CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21, "CAP_BPF": 39,
}  # fmt: skip
"""linux/capability.h."""
KUBECONFIG = "/run/overlay/api/kubeconfig"

CONTAINERS = (
    (0, "redis", {"app": "redis", "role": "logstor"}),
    (0, "web1", {"app": "myapp", "release": "canary"}),
    (1, "web2", {"app": "myapp", "release": "canary"}),
    (1, "web3", {"app": "myapp", "release": "canary"}),
    (1, "other", {"app": "myapp-old", "release": "stable"}),
)
"""On which node, under which name, with which labels. At port 80 each answers ``/hostname.html`` with its name."""

SERVE = "echo {} >/tmp/hostname.html; exec httpd -f -p 80 -h /tmp"
PODS = {"web1", "web2", "web3"}
"""Of the Service myapp."""

NODE_PORT = 30080

ENOUGH = 60
"""Connections of which each of three backends, chosen at random, has one: all but one time in 10^10."""

ALWAYS_DESCRIBED = (
    "Name", "Namespace", "Labels", "Selector", "Type", "IP", "Port", "TargetPort", "Endpoints", "Session Affinity",
    "Events",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster(stage: Path) -> Iterator[Site]:
    """All of it is up, and every container is a pod."""
    if shutil.which("kubectl") is None:
        do_without("kubectl (package kubernetes-client, from Debian 13 on kubectl)")
    files = {f"/root/{file.name}": file.read_text() for file in (SOURCE / "docs/examples").glob("*.yaml")}
    with site(stage, 2, files) as made:
        for number, node in enumerate(made.nodes, 1):
            more = {"OVERLAY_PROXY_CGROUP": own_cgroup(node)} if number == 2 else {}
            node.write(SETTINGS, settings(made.lab, OVERLAY_NODE_NAME=f"n{number}", **more))
            node.systemctl("start", "overlay-services")  # ready without Docker, agent and subnet, which it waits for
            node.write("/etc/docker/daemon.json", '{"live-restore": true}')
            start_docker(node)
            wait_for_agent(node, LIMIT)
        for number, name, labels in CONTAINERS:
            flags = [flag for key, value in labels.items() for flag in ("--label", f"{key}={value}")]
            made.nodes[number].run(
                "docker", "run", "--detach", "--name", name, *flags, IMAGE, "sh", "-c", SERVE.format(name)
            )
        made.nodes[0].systemctl("start", "overlay-api")
        wait_until(lambda: running(made.nodes[0]) == len(CONTAINERS), LIMIT, "all pods")
        yield made


def own_cgroup(node: Booted) -> str:
    """The root of version 2's tree, as a node sees it: the group that the node is in."""
    return node.run("findmnt", "-rno", "TARGET", "-t", "cgroup2").stdout.split()[0]


def page() -> list[tuple[str, str, str]]:
    """What the page types, after which prompt (``#``: on n1, ``$``: outside), and what it shows of that."""
    section = (SOURCE / "docs/kubectl.md").read_text().split("## A session")[1].split("\n## ")[0]
    text = "".join(re.findall(r"```console\n(.*?)```", section, re.DOTALL))
    _, *pieces = re.split(r"^([#$]) ", text, flags=re.MULTILINE)
    typed = [(prompt, *piece.partition("\n")) for prompt, piece in zip(pieces[::2], pieces[1::2], strict=True)]
    return [(prompt, command, printed) for prompt, command, _, printed in typed]


def shape(printed: str) -> list[str]:
    """Its lines, with what differs from day to day taken out, and without how wide columns are."""
    for pattern, word in (
        (r"\b\d+\.\d+\.\d+\.\d+\b", "ADDRESS"),
        (r"\b(redis|web\d|other)-[0-9a-f]{5}\b", r"\1-ID"),
        (r"\b(\d+[smhd])+(?=\s|$)", "AGE"),
    ):
        printed = re.sub(pattern, word, printed, flags=re.MULTILINE)
    return [" ".join(line.split()) for line in printed.strip().splitlines()]


def kubectl(
    node: Booted, *arguments: str, kubeconfig: str = KUBECONFIG, user: str = "root"
) -> subprocess.CompletedProcess[str]:
    """A kubectl of this machine, run by ``user``."""
    command = ("kubectl", f"--kubeconfig={kubeconfig}", "--cache-dir=/tmp/cache", *arguments)
    return node.run("setpriv", "--reuid", user, "--clear-groups", *command, check=False, timeout=LIMIT)


def answered(site: Site, command: str) -> int:
    """How many different pods answer a command that is typed outside."""
    names = site.lab.etcd.run("sh", "-ec", command).stdout.split()
    assert set(names) <= PODS
    return len(names)


def running(node: Booted) -> int:
    """How many pods run and have an address, as the API on a node tells."""
    listed = kubectl(node, "get", "pods", "-o", "json")
    pods = json.loads(listed.stdout)["items"] if listed.returncode == 0 else []
    return sum(pod["status"]["phase"] == "Running" and "podIP" in pod["status"] for pod in pods)


def everything(site: Site) -> Any:
    """All keys of services, with the revisions at which they were made and changed."""
    return json.loads(site.etcdctl("get", "--prefix", "/overlay/", "--write-out=json")).get("kvs", [])


def statuses(node: Booted, unit: str) -> dict[str, list[str]]:
    """/proc/PID/status of a unit's main process."""
    text = node.read(f"/proc/{node.main_pid(unit)}/status")
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in text.splitlines())}


def from_outside(site: Site, number: int) -> list[str]:
    """Who answers at node n{number}'s port, asked often from a machine that is no node."""
    url = f"http://{site.lab.nodes[number].address}:{NODE_PORT}/hostname.html"
    return site.lab.etcd.run("sh", "-c", f"for i in $(seq {ENOUGH}); do curl -s -m 5 {url}; done; :").stdout.split()


def from_container(node: Booted, name: str, address: str, times: int = ENOUGH) -> set[str]:
    """Who answers at a Service's address, asked from a container."""
    fetch = f"timeout 1 wget -q -O - http://{address}/hostname.html"
    script = f"for i in {' '.join(map(str, range(times)))}; do {fetch}; done; :"
    return set(node.run("docker", "exec", name, "sh", "-c", script, timeout=LIMIT).stdout.split())


def from_node(node: Booted, address: str) -> set[str]:
    """Who answers a process of the node itself."""
    url = f"http://{address}/hostname.html"
    return set(node.run("sh", "-c", f"for i in $(seq {ENOUGH}); do curl -s -m 5 {url}; done; :").stdout.split())


def proxy(node: Booted) -> dict[str, Any]:
    """What a node says of how its addresses answer."""
    status = node.run("overlay", "services", "--status", check=False).stdout
    found: dict[str, Any] = json.loads(status)["proxy"]
    return found


@pytest.fixture
def myapp(cluster: Site) -> Iterator[str]:
    """The Service of three pods on two nodes; its ClusterIP."""
    node = cluster.nodes[0]
    try:
        assert kubectl(node, "apply", "-f", "/root/myapp-svc.yaml").stdout == "service/myapp created\n"
        yield kubectl(node, "get", "svc", "myapp", "-o", "jsonpath={.spec.clusterIP}").stdout
    finally:
        kubectl(node, "delete", "svc", "myapp", "--ignore-not-found")


def test_each_node_takes_the_mode_that_it_can_have(cluster: Site) -> None:
    first, second = map(proxy, cluster.nodes)
    assert (first["mode"], second["mode"]) == ("nftables", "ebpf"), (first, second)
    assert "network namespace" in first["declined"]


def test_a_node_port_is_answered_by_all_pods_and_then_by_one(cluster: Site, myapp: str) -> None:
    for number, node in enumerate(cluster.nodes):
        wait_until(lambda number=number: set(from_outside(cluster, number)) == PODS, LIMIT, f"all at n{number + 1}")  # type: ignore[misc]
        assert len(from_outside(cluster, number)) == ENOUGH, "each connection is answered"
        assert from_node(node, myapp) == PODS
    patch = ("patch", "svc", "myapp", "-p", '{"spec":{"sessionAffinity":"ClientIP"}}')
    assert kubectl(cluster.nodes[0], *patch).stdout == "service/myapp patched\n"
    for number in range(2):
        wait_until(lambda number=number: len(set(from_outside(cluster, number))) == 1, LIMIT, "one alone")  # type: ignore[misc]
        answers = from_outside(cluster, number) + from_outside(cluster, number)
        assert (len(answers), len(set(answers))) == (2 * ENOUGH, 1), "from then on"


def test_containers_of_every_network_reach_a_cluster_ip(cluster: Site, myapp: str) -> None:
    here = ("web1", "web2")
    for node, neighbour in zip(cluster.nodes, here, strict=True):
        node.run("docker", "network", "create", "own")
        for name, network in (("on-own", "own"), ("on-host", "host")):
            node.run("docker", "run", "--detach", "--name", name, "--network", network, IMAGE, "sleep", "86400")
        try:
            for name in ("on-host", "on-own"):
                wait_until(lambda node=node, name=name: from_container(node, name, myapp) == PODS, LIMIT, name)  # type: ignore[misc]
            pod = str(Container(node, neighbour).address)
            assert not from_container(node, "on-own", pod, 2), "Docker keeps its networks apart for all else"
            node.run("iptables", "-I", "DOCKER-USER", "!", "-i", "docker0", "-d", pod, "-j", "DROP")
            assert not from_container(node, "on-own", myapp, 20) & {neighbour}, "what operators deny is denied"
            node.run("iptables", "-D", "DOCKER-USER", "!", "-i", "docker0", "-d", pod, "-j", "DROP")
            node.run("docker", "network", "create", "another")  # Docker moves its rules to the front
            wait_until(lambda node=node: from_container(node, "on-own", myapp) == PODS, LIMIT, "still")  # type: ignore[misc]
            node.run("docker", "network", "connect", "bridge", "on-own")
            wait_until(lambda node=node: from_container(node, "on-own", myapp) == PODS, LIMIT, "of both")  # type: ignore[misc]
        finally:
            node.run("docker", "rm", "--force", "on-own", "on-host")
            node.run("docker", "network", "rm", "own")
            node.run("docker", "network", "rm", "another", check=False)


WITNESSES = {
    "asks": "while :; do timeout 9 wget -qO - http://{vip}/hostname.html >&2 && echo . || echo failed; sleep .1; done",
    "holds": "while :; do echo .; sleep 0.2; done | busybox nc {echo} 8081; echo failed",
}
"""What containers do all the time: one connection after another, and one that stays. A dot is an answer."""


@pytest.fixture
def witnesses(cluster: Site, myapp: str) -> Iterator[Callable[[Booted], dict[str, list[str]]]]:
    """Containers of each node, on Docker's default network and on one of their own, and what they have printed."""
    node = cluster.nodes[0]
    for each in cluster.nodes:
        each.run("docker", "run", "--detach", "--name", "echo", "--label", "app=echo", IMAGE,
                 "busybox", "nc", "-ll", "-p", "8081", "-e", "cat")  # fmt: skip
        each.run("docker", "network", "create", "own")
    kubectl(node, "create", "service", "clusterip", "echo", "--tcp=8081:8081")
    names = [(each, network) for each in WITNESSES for network in ("bridge", "own")]

    def printed(node: Booted) -> dict[str, list[str]]:
        return {f"{each} from {network}": node.run("docker", "exec", f"{each}-{network}", "cat", "/tmp/printed")
                .stdout.split() for each, network in names}  # fmt: skip

    try:
        echo = kubectl(node, "get", "svc", "echo", "-o", "jsonpath={.spec.clusterIP}").stdout
        endpoints = ("get", "endpoints", "echo", "-o", "jsonpath={.subsets[*].addresses[*].ip}")
        wait_until(lambda: len(kubectl(node, *endpoints).stdout.split()) == 2, LIMIT, "both")
        for each in cluster.nodes:
            wait_until(lambda each=each: from_node(each, myapp) == PODS, LIMIT, "the Service")  # type: ignore[misc]
            for name, network in names:
                script = f"({WITNESSES[name].format(vip=myapp, echo=echo)}) >/tmp/printed"
                each.run("docker", "run", "--detach", "--name", f"{name}-{network}", "--network", network, IMAGE,
                         "sh", "-c", script)  # fmt: skip
        yield printed
    finally:
        kubectl(node, "delete", "svc", "echo", "--ignore-not-found")
        for each in cluster.nodes:
            each.run("docker", "rm", "--force", "echo", *(f"{name}-{network}" for name, network in names), check=False)
            each.run("docker", "network", "rm", "own", check=False)


def test_no_connection_fails_when_dockerd_or_the_daemon_is_restarted(
    cluster: Site, witnesses: Callable[[Booted], dict[str, list[str]]]
) -> None:
    """By dockerd with live-restore: without, it ends its containers itself."""

    def is_up(node: Booted) -> bool:
        status = node.run("overlay", "services", "--status", check=False).stdout
        docker = node.run("docker", "version", check=False).returncode == 0
        return docker and bool(status) and json.loads(status)["docker"]["connected"] and json.loads(status)["ready"]

    def goes_on(node: Booted) -> None:
        was = {who: len(lines) for who, lines in witnesses(node).items()}

        def silent() -> list[str]:
            return [f"{who}: {lines[-3:]}" for who, lines in witnesses(node).items() if len(lines) < was[who] + 10]

        wait_until(lambda: not silent(), LIMIT, "answers")

    for node in cluster.nodes:
        goes_on(node)
        for unit in ("docker", "overlay-services"):
            for way in ("restart", "kill"):
                if way == "restart":
                    node.systemctl("restart", unit)
                else:
                    node.kill(node.main_pid(unit), signal.SIGKILL)
                wait_until(lambda node=node: is_up(node), LIMIT, f"{unit} after {way}")  # type: ignore[misc]
                goes_on(node)
        failed = {who: lines.count("failed") for who, lines in witnesses(node).items()}
        assert not any(failed.values()), failed


def test_what_a_mode_cannot_do_is_described(cluster: Site, myapp: str) -> None:
    first = cluster.nodes[0]
    kubectl(first, "annotate", "svc", "myapp", "overlay.io/scheduler=lc")

    def told() -> str:
        return kubectl(first, "describe", "svc", "myapp").stdout.partition("\nEvents:")[2]

    wait_until(lambda: told().count("UnsupportedByProxyMode") == 2, LIMIT, "an Event of each mode")
    assert "nftables has no scheduler lc" in told()
    assert "proxy mode ebpf" in told()
    assert told().count("Warning") == 2


def test_the_page_is_what_happens(cluster: Site, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = cluster.nodes
    for prompt, command, shown in page():
        if prompt == "$":
            wait_until(lambda: answered(cluster, command) == len(shown.split()), LIMIT, command)  # noqa: B023
            continue
        script = f"cd /root; export KUBECONFIG={KUBECONFIG}; {command}"
        printed = first.run("sh", "-ec", script, timeout=LIMIT).stdout
        with capsys.disabled():
            print(f"# {command}\n{printed}", end="")
        if " describe " in command:
            lasting = [line for line in shape(shown) if line.partition(":")[0] in ALWAYS_DESCRIBED]
            assert len(lasting) == len(ALWAYS_DESCRIBED)
            assert not set(lasting) - set(shape(printed)), printed
        else:
            assert shape(printed) == shape(shown), command

    def named(node: Booted) -> set[str]:
        command = ("dig", "@169.254.20.10", "+short", "-t", "A", "myapp-svc.default.svc.cluster.local.")
        return set(node.run(*command, check=False).stdout.split())

    def endpoints() -> set[str]:
        return set(re.findall(r"10\.\d+\.\d+\.\d+", kubectl(first, "get", "endpoints", "myapp-svc").stdout))

    assert len(endpoints()) == 3, "on both nodes"
    for node in cluster.nodes:
        wait_until(lambda node=node: named(node) == endpoints(), LIMIT, "their name on each node")  # type: ignore[misc]
    second.run("docker", "rm", "--force", "web3")
    wait_until(lambda: len(endpoints()) == 2, LIMIT, "an endpoint less")


def test_they_may_do_what_they_must(cluster: Site) -> None:
    node = cluster.nodes[0]
    api, services = statuses(node, "overlay-api"), statuses(node, "overlay-services")
    assert api["Uid"][0] != "0"
    assert int(api["CapBnd"][0], 16) == int(api["CapEff"][0], 16) == 0
    assert int(services["CapBnd"][0], 16) == sum(1 << number for number in SERVICES_MAY.values())
    assert json.loads(node.run("overlay", "services", "--status", check=False).stdout)["dns"]["answers"] is True
    version = node.run("dig", "@169.254.20.10", "+short", "TXT", "dns-version.cluster.local")
    assert version.stdout.strip() == '"1.1.0"'
    assert api["NoNewPrivs"] == services["NoNewPrivs"] == ["1"]
    # By number: a dynamic group has a name only where libnss-systemd is installed.
    assert node.run("stat", "-c", "%a %g", KUBECONFIG).stdout.split() == ["640", api["Gid"][0]]
    assert node.run("overlay", "kubeconfig").stdout == node.read(KUBECONFIG)
    assert "permission denied" in kubectl(node, "get", "pods", user="nobody").stderr
    refused = kubectl(node, "create", "ns", "team", kubeconfig=f"{KUBECONFIG}-readonly")
    assert refused.returncode == 1
    assert "may only read" in refused.stderr


def test_their_end_and_start_change_nothing(cluster: Site) -> None:
    node = cluster.nodes[0]
    before, config = everything(cluster), node.read(KUBECONFIG)
    node.systemctl("restart", "overlay-services")
    node.systemctl("restart", "overlay-api")
    assert everything(cluster) == before
    assert node.read(KUBECONFIG) == config, "certificate and tokens are kept"
    node.kill(node.main_pid("overlay-api"), signal.SIGKILL)
    wait_until(lambda: kubectl(node, "get", "pods").returncode == 0, LIMIT, "an API again")


def test_they_go_with_the_installation(cluster: Site, wheels: Path) -> None:
    node = cluster.nodes[0]
    installer(node, "uninstall", wheels)
    for path in ("/run/overlay", "/var/lib/overlay", "/var/lib/private/overlay"):
        assert node.run("test", "-e", path, check=False).returncode != 0, path
