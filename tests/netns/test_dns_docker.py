"""Names in containers of a real Docker that ``overlay docker-opts --names`` has told where they are answered.

one host in namespaces:   etcd ◀── overlay services ── 169.254.20.10 ◀── containers on docker0
                                                             ▲
                          containers on a network of their own ──▶ 127.0.0.11, Docker's resolver
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_host import ETCD, DockerHost, docker_host
from tests.support.labs import need_programs
from tests.support.site import own_folder
from tests.support.systemd import wait_until

pytestmark = pytest.mark.root

LIMIT = 60.0
CLUSTER_IP = "10.97.218.31"
MUSL_PROGRAM = Path(__file__).parents[1] / "support" / "resolve.c"


@pytest.fixture
def host() -> Iterator[DockerHost]:
    need_programs("nft", "musl-gcc")
    with own_folder() as folder, docker_host(folder) as host:
        yield host


def put_service(host: DockerHost, name: str, namespace: str, **spec: object) -> None:
    metadata = {"name": name, "namespace": namespace, "uid": "u"}
    document = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    host.etcdctl("put", f"/overlay/objects/services/{namespace}/{name}", json.dumps(document))


def told(host: DockerHost) -> list[str]:
    """Docker's options, as its unit takes them from ``docker-opts``."""
    written = host.run(
        sys.executable, "-m", "overlay", "docker-opts", "-c", "-d", "/dev/stdout", "--names", "169.254.20.10"
    )  # fmt: skip
    words = written.partition('="')[2].rstrip('"\n').split()
    return [each for each in words if each.startswith("--dns")]


def test_names_resolve_in_containers(host: DockerHost) -> None:
    host.stop("dockerd")
    host.start_docker(*told(host))
    host.start("services", sys.executable, "-m", "overlay", "services", "--node-name", "n1", "--etcd-endpoints", ETCD)
    put_service(host, "redis", "default", clusterIP=CLUSTER_IP, clusterIPs=[CLUSTER_IP], ports=[{"port": 6379}])
    put_service(host, "redis", "shop", clusterIP="10.97.0.2", clusterIPs=["10.97.0.2"], ports=[{"port": 6379}])
    put_service(host, "web", "default", selector={"app": "web"}, clusterIP="None", ports=[{"port": 80}])
    web = host.container("--label", "app=web", "--name", "web1")
    address = host.docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", web)
    on_bridge = host.container()
    host.docker("network", "create", "own")
    in_own = host.container("--network", "own")
    host.container("--network", "own", "--name", "db")
    elsewhere = host.container("--dns-search", "shop.svc.cluster.local")

    def looked_up(container: str, name: str) -> str:
        return host.docker("exec", container, "nslookup", "-type=a", name, check=False)

    def resolves(container: str, name: str, to: str) -> None:
        wait_until(lambda: f"Address: {to}" in looked_up(container, name), LIMIT, f"{name} in a container")

    for container in (on_bridge, in_own):
        resolves(container, "redis.default.svc.cluster.local", CLUSTER_IP)
        resolves(container, "redis", CLUSTER_IP)  # by the search list
        resolves(container, "web.default.svc.cluster.local", address)
        assert "NXDOMAIN" in looked_up(container, "nothing.default.svc.cluster.local")
        assert "options ndots:5" in host.docker("exec", container, "cat", "/etc/resolv.conf").replace(" ndots:0", "")
    assert "nameserver 169.254.20.10" in host.docker("exec", on_bridge, "cat", "/etc/resolv.conf")
    resolves(elsewhere, "redis", "10.97.0.2")  # a container of another namespace says so
    musl = host.folder / "resolve"
    subprocess.run(["musl-gcc", "-static", "-o", str(musl), str(MUSL_PROGRAM)], check=True)
    for container, names in ((on_bridge, ("redis", "web")), (in_own, ("redis", "web", "redis.default.svc"))):
        host.docker("cp", str(musl), f"{container}:/resolve")
        found = {name: host.docker("exec", container, "/resolve", name, check=False) for name in names}
        assert found == {name: address if name == "web" else CLUSTER_IP for name in names}
        assert host.docker("exec", container, "/resolve", "nothing", check=False) == "no such name"
    own = json.loads(host.docker("inspect", "db"))[0]["NetworkSettings"]["Networks"]["own"]["IPAddress"]
    resolves(in_own, "db.", own)  # a plain name of its own network is Docker's affair still
    host.docker("stop", "--time", "0", "web1")
    wait_until(lambda: "NXDOMAIN" in looked_up(in_own, "web.default.svc.cluster.local"), LIMIT, "the pod's end")
