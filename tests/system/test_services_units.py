"""``overlay-services`` and ``overlay-api`` under a real systemd: what they may do, and what their end and start change.

node: etcd ◀── overlay-services ──▶ docker        kubectl ──HTTPS──▶ overlay-api ──▶ etcd
"""

from __future__ import annotations

import json
import shutil
import signal
from typing import Any

import pytest

from tests.support.docker import start_container, start_docker
from tests.support.etcd import do_without
from tests.support.site import Site, installer
from tests.support.systemd import Booted, wait_until
from tests.system.conftest import MakeSite

pytestmark = pytest.mark.root

KUBECONFIG = "/run/overlay/api/kubeconfig"
LIMIT = 90.0


def kubectl(node: Booted, *arguments: str, kubeconfig: str = KUBECONFIG, user: str = "root") -> Any:
    """What a kubectl of this machine, run by ``user``, says."""
    command = ("kubectl", f"--kubeconfig={kubeconfig}", "--cache-dir=/tmp/cache", *arguments)
    return node.run("setpriv", "--reuid", user, "--clear-groups", *command, check=False)


def everything(site: Site) -> Any:
    """All keys of services, with the revisions at which they were made and changed."""
    return json.loads(site.etcdctl("get", "--prefix", "/overlay/", "--write-out=json")).get("kvs", [])


def pods(node: Booted) -> dict[str, Any]:
    listed = kubectl(node, "get", "pods", "-A", "-o", "json")
    assert listed.returncode == 0, listed
    return {pod["metadata"]["name"]: pod for pod in json.loads(listed.stdout)["items"]}


def statuses(node: Booted, unit: str) -> dict[str, list[str]]:
    """/proc/PID/status of a unit's main process."""
    text = node.read(f"/proc/{node.main_pid(unit)}/status")
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in text.splitlines())}


def test_containers_are_pods_and_the_api_shows_them(make_site: MakeSite, wheels: Any) -> None:
    if shutil.which("kubectl") is None:
        do_without("kubectl (package kubernetes-client, from Debian 13 on kubectl)")
    made = make_site(nodes=1)
    (node,) = made.nodes
    node.systemctl("start", "overlay-services", "overlay-api")
    assert node.active("overlay-services"), "ready without Docker, agent or subnet, which it waits for"
    start_docker(node)
    start_container(node, "web")
    wait_until(lambda: running(pods(node)) == 1, LIMIT, "a pod that runs")

    # What they may do.
    api, services = statuses(node, "overlay-api"), statuses(node, "overlay-services")
    assert api["Uid"][0] != "0"
    assert int(api["CapBnd"][0], 16) == int(api["CapEff"][0], 16) == 0
    assert int(services["CapBnd"][0], 16) == 1 << 2, "CAP_DAC_READ_SEARCH"
    assert api["NoNewPrivs"] == services["NoNewPrivs"] == ["1"]
    assert node.run("stat", "-c", "%a %G", KUBECONFIG).stdout.split() == ["640", "overlay"]
    refused = kubectl(node, "get", "pods", user="nobody")
    assert "permission denied" in refused.stderr
    reading = f"{KUBECONFIG}-readonly"
    assert kubectl(node, "create", "ns", "team", kubeconfig=reading).returncode != 0
    assert "may only read" in kubectl(node, "create", "ns", "team", kubeconfig=reading).stderr
    assert node.run("overlay", "kubeconfig").stdout == node.read(KUBECONFIG)

    # Their end and start change nothing.
    before, config = everything(made), node.read(KUBECONFIG)
    node.systemctl("restart", "overlay-services")
    node.systemctl("restart", "overlay-api")
    assert everything(made) == before
    assert node.read(KUBECONFIG) == config, "certificate and tokens are kept"
    node.kill(node.main_pid("overlay-api"), signal.SIGKILL)
    wait_until(lambda: kubectl(node, "get", "pods").returncode == 0, LIMIT, "an API again")

    installer(node, "uninstall", wheels)
    for path in ("/run/overlay", "/var/lib/overlay", "/var/lib/private/overlay"):
        assert node.run("test", "-e", path, check=False).returncode != 0, path


def running(found: dict[str, Any]) -> int:
    """How many pods run and have an address."""
    return sum(pod["status"]["phase"] == "Running" and "podIP" in pod["status"] for pod in found.values())
