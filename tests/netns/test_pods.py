"""Containers of a real Docker as pods in a real etcd, and as endpoints wherever somebody looks.

one host in namespaces:   etcd ◀── overlay services ──▶ dockerd (docker0 = 10.0.5.1/24)
                            │
                            └──▶ watch_endpoints: what any other node or API computes
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from queue import Empty, Queue
from threading import Thread
from typing import Any

import pytest

from tests.netns.agents import without
from tests.support.docker_host import ETCD, NODE_ADDRESS, DockerHost, docker_host
from tests.support.limits import limit
from tests.support.problems import shown
from tests.support.site import own_folder
from tests.support.systemd import wait_until

pytestmark = pytest.mark.root

LIMIT = 60.0
TTL = 5


@dataclass
class Watcher:
    """What ``watch_endpoints`` says, as it comes."""

    process: subprocess.Popen[str]
    lines: Queue[dict[str, Any]]

    def until(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The first line that fits; those before it are passed over."""
        last: object = None
        try:
            while not condition(last := self.lines.get(timeout=LIMIT)):
                pass
        except Empty:
            raise AssertionError(f"not within {LIMIT:g} s; last: {last}") from None
        assert isinstance(last, dict)
        return last

    def alone(self, **expected: set[str]) -> dict[str, Any]:
        """The first line whose addresses are these."""
        return self.until(lambda line: all(set(line[name]) == names for name, names in expected.items()))


@pytest.fixture
def host() -> Iterator[DockerHost]:
    with own_folder() as folder, docker_host(folder) as host:
        yield host


@pytest.fixture
def watch(host: DockerHost) -> Iterator[Callable[..., Watcher]]:
    started: list[subprocess.Popen[str]] = []

    def make(name: str, namespace: str = "default") -> Watcher:
        command = [sys.executable, "-m", "tests.support.watch_endpoints", ETCD, namespace, name]
        process = subprocess.Popen(host.inside(*command), stdout=subprocess.PIPE, text=True)
        started.append(process)
        lines: Queue[dict[str, Any]] = Queue()

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.put(json.loads(line))

        Thread(target=read, daemon=True).start()
        return Watcher(process, lines)

    yield make
    for process in started:
        process.kill()
        process.wait()


def launch_services(host: DockerHost, *flags: str) -> None:
    command = (sys.executable, "-m", "overlay", "services", "--node-name", "n1", "--services-lease-ttl", str(TTL))
    host.start("services", *command, *flags)
    wait_until(lambda: report(host) != {}, LIMIT, "a daemon that answers")


def start_services(host: DockerHost, *flags: str) -> None:
    launch_services(host, *flags)
    wait_until(lambda: report(host).get("ready") is True, LIMIT, "a daemon that is ready")


def report(host: DockerHost, state_dir: str = "/run/overlay") -> dict[str, Any]:
    words = (sys.executable, "-m", "overlay", "services", "--status", "--state-dir", state_dir)
    said: dict[str, Any] = json.loads(host.run(*words, check=False) or "{}")
    return said


def put_service(host: DockerHost, name: str = "web", selector: str = "web", **spec: Any) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default", "uid": "u"},
        "spec": {"selector": {"app": selector}, "ports": [{"port": 80, "targetPort": "http"}], **spec},
    }
    host.etcdctl("put", f"/overlay/objects/services/default/{name}", json.dumps(document))


WEB = ("--label", "app=web", "--label", "overlay.io/ports=http=8080")


def name_of(stem: str, ident: str) -> str:
    return f"{stem}-{ident[:5]}"


def test_a_container_is_a_pod_and_an_endpoint_and_is_none_when_it_ends(
    host: DockerHost, watch: Callable[..., Watcher]
) -> None:
    put_service(host)
    seen = watch("web")
    start_services(host)
    ident = host.container(*WEB, "--name", "Web_1")
    name = name_of("web-1", ident)
    address = host.docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", ident)
    assert seen.alone(ready={name})["ready"] == {name: address}
    pod: Any = host.pods()[name]
    assert pod["status"]["podIP"] == address
    assert pod["status"]["hostIP"] == NODE_ADDRESS
    host.docker("pause", ident)
    seen.alone(ready=set(), unready={name})
    host.docker("unpause", ident)
    seen.alone(ready={name}, unready=set())
    host.docker("stop", "--time", "0", ident)
    seen.alone(ready=set(), unready=set())
    ended: Any = host.pods()[name]
    assert ended["status"]["phase"] == "Failed"
    assert ended["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137
    host.docker("rename", ident, "db")
    wait_until(lambda: name_of("db", ident) in host.pods(), LIMIT, "its new name")
    host.docker("rm", ident)
    wait_until(lambda: host.pods() == {}, LIMIT, "no pod")
    assert report(host)["problems"] == []


def test_health_restarts_and_networks_as_docker_has_them(host: DockerHost, watch: Callable[..., Watcher]) -> None:
    put_service(host)
    seen = watch("web")
    start_services(host)
    health = ("--health-cmd", "test -e /tmp/well", "--health-interval", "1s", "--health-retries", "1")
    ident = host.container(*WEB, *health, "--name", "sick")
    name = name_of("sick", ident)
    seen.alone(ready=set(), unready={name})
    host.docker("exec", ident, "touch", "/tmp/well")
    seen.alone(ready={name})
    host.docker("exec", ident, "rm", "/tmp/well")
    seen.alone(ready=set(), unready={name})

    crashing = host.container("--name", "crash", "--restart", "always", command=("false",))

    def crashed() -> bool:
        pod: Any = host.pods().get(name_of("crash", crashing), {"status": {}})
        (status,) = pod["status"].get("containerStatuses", [{}])
        return bool(status.get("restartCount", 0) >= 2 and "CrashLoopBackOff" in json.dumps(status))

    wait_until(crashed, LIMIT, "restarts that are counted")

    host.docker("network", "create", "--subnet", "172.28.0.0/24", "back")
    apart = host.container(*WEB, "--network", "back", "--name", "apart")

    def without() -> bool:
        pod: Any = host.pods().get(name_of("apart", apart), {"status": {}})
        return "172.28.0.2" in pod["status"].get("message", "") and "podIP" not in pod["status"]

    wait_until(without, LIMIT, "a pod without address, and why")
    host.docker("network", "connect", "bridge", apart)
    seen.alone(ready={name_of("apart", apart)})

    hosts = host.container(*WEB, "--network", "host", "--name", "hosts")
    assert (
        seen.until(lambda line: name_of("hosts", hosts) in line["ready"])["ready"][name_of("hosts", hosts)]
        == NODE_ADDRESS
    )
    joined = host.container("--network", f"container:{apart}", "--name", "sidecar")

    def together() -> bool:
        pod: Any = host.pods()[name_of("apart", apart)]
        return [each["name"] for each in pod["spec"]["containers"]] == ["apart", "sidecar"]

    wait_until(together, LIMIT, "one pod of two containers")
    assert joined not in {
        key.rpartition("/")[2] for key in host.etcdctl("get", "--prefix", "/overlay/pods", "--keys-only").split()
    }


def test_a_container_that_is_stopped_gets_nobody_new_while_it_ends(
    host: DockerHost, watch: Callable[..., Watcher]
) -> None:
    put_service(host)
    seen = watch("web")
    start_services(host)
    until_told = "while ! test -e /tmp/go; do sleep 1; done; exit 0"
    slow = ("sh", "-c", f"trap '{until_told}' TERM; while :; do sleep 1; done")
    ident = host.container(*WEB, "--name", "slow", command=slow)
    name = name_of("slow", ident)
    seen.alone(ready={name})
    host.docker("kill", "--signal", "HUP", host.container(*WEB, "--name", "other"))
    stopping = subprocess.Popen(host.inside("docker", "stop", "--time", "100", ident), stdout=subprocess.DEVNULL)
    line = seen.until(lambda line: name not in line["ready"])
    assert line["serving"] == [name]
    assert host.docker("inspect", "-f", "{{.State.Running}}", ident) == "true"
    host.docker("exec", ident, "touch", "/tmp/go")
    stopping.wait(LIMIT)
    seen.until(lambda line: line["serving"] == [])
    ended: Any = host.pods()[name]
    assert ended["status"]["phase"] == "Succeeded"
    assert "deletionTimestamp" not in ended["metadata"]
    host.docker("start", ident)
    seen.until(lambda line: name in line["ready"])


def test_docker_restarts_and_dies_and_what_happened_meanwhile_is_known(
    host: DockerHost, watch: Callable[..., Watcher]
) -> None:
    put_service(host)
    seen = watch("web")
    start_services(host)
    stays = host.container(*WEB, "--name", "stays", "--restart", "always")
    goes = host.container(*WEB, "--name", "goes")
    seen.alone(ready={name_of("stays", stays), name_of("goes", goes)})
    host.stop("dockerd")
    seen.alone(ready=set())
    host.start_docker()
    seen.alone(ready={name_of("stays", stays)})
    host.docker("rm", goes)
    wait_until(lambda: set(host.pods()) == {name_of("stays", stays)}, LIMIT, "the pods that are left")
    wait_until(lambda: report(host)["problems"] == [], LIMIT, "a status without a problem")


def test_etcd_goes_and_comes_back_and_what_happened_meanwhile_is_written(
    host: DockerHost, watch: Callable[..., Watcher]
) -> None:
    put_service(host)
    start_services(host)
    before = host.container(*WEB, "--name", "before")
    wait_until(lambda: name_of("before", before) in host.pods(), LIMIT, "a pod")
    host.stop("etcd", signal.SIGKILL)
    meanwhile = host.container(*WEB, "--name", "meanwhile")
    host.docker("rm", "--force", before)
    wait_until(lambda: shown(report(host), "store"), LIMIT, "the problem")
    host.start_etcd()
    seen = watch("web")
    seen.alone(ready={name_of("meanwhile", meanwhile)})
    assert set(host.pods()) == {name_of("meanwhile", meanwhile)}
    wait_until(lambda: report(host)["ready"] and not report(host)["problems"], LIMIT, "a status without a problem")


def test_a_node_that_is_killed_loses_its_endpoints_when_its_lease_ends(
    host: DockerHost, watch: Callable[..., Watcher]
) -> None:
    put_service(host)
    seen = watch("web")
    start_services(host)
    ident = host.container(*WEB, "--name", "web")
    seen.alone(ready={name_of("web", ident)})
    host.stop("services", signal.SIGKILL)
    seen.alone(ready=set())
    assert host.pods() == {}
    start_services(host)
    seen.alone(ready={name_of("web", ident)})


def test_a_restarted_daemon_changes_nothing(host: DockerHost, watch: Callable[..., Watcher]) -> None:
    """Also where etcd answers long before Docker does, and where Docker does not answer at all."""
    lasting = ("--services-lease-ttl", "600")
    start_services(host, *lasting)
    host.container(*WEB, "--name", "web")
    host.container(*WEB, "--name", "hosts", "--network", "host")
    wait_until(lambda: [ready(pod) for pod in host.pods().values()] == [True, True], LIMIT, "two pods that are ready")
    before = everything(host)

    host.stop("services")
    start_services(host, *lasting)
    assert everything(host) == before

    host.stop("services")
    with host.frozen("dockerd"):
        launch_services(host, *lasting)
        wait_until(lambda: shown(report(host), "docker"), LIMIT, "Docker is missed")
        assert report(host)["store"]["connected"]
        assert everything(host) == before
    wait_until(lambda: report(host)["docker"]["connected"], LIMIT, "Docker is back")
    wait_until(lambda: report(host)["problems"] == [], LIMIT, "a status without a problem")
    assert everything(host) == before


def everything(host: DockerHost) -> Any:
    """All keys, with the revisions at which they were made and changed."""
    return json.loads(host.etcdctl("get", "--prefix", "/overlay/", "--write-out=json"))["kvs"]


def ready(pod: Any) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"]["conditions"])


@pytest.mark.parametrize(("capability", "mode"), [("net_admin", "auto"), ("dac_read_search", "none")])
def test_it_needs_no_privileges_but_to_program_the_network(
    host: DockerHost, watch: Callable[..., Watcher], capability: str, mode: str
) -> None:
    """What its unit leaves it, to read TLS keys or to program; Docker's socket belongs to root, so does the daemon."""
    put_service(host, clusterIP="10.96.0.9")
    seen = watch("web")
    bounded = ("setpriv", f"--bounding-set=-all,+{capability}", "--inh-caps=-all", "--no-new-privs")
    command = (sys.executable, "-m", "overlay", "services", "--node-name", "n1", "--proxy-mode", mode)
    host.start("services", *bounded, *command, "--dns-address", "none")  # names need what the unit gives besides
    wait_until(lambda: report(host).get("ready") is True, LIMIT, "a daemon that is ready")
    effective = int(host.run("grep", "CapEff", f"/proc/{report(host)['pid']}/status").split()[1], 16)
    assert effective.bit_count() <= 1
    if mode == "auto":
        wait_until(lambda: report(host)["proxy"].get("ports") == 1, LIMIT, "a Service that is programmed")
        assert report(host)["problems"] == []
    ident = host.container(*WEB, "--name", "web")
    seen.alone(ready={name_of("web", ident)})
    host.docker("rm", "--force", ident)
    seen.alone(ready=set())


def test_pods_of_a_directory_are_pods_too(host: DockerHost, watch: Callable[..., Watcher]) -> None:
    put_service(host)
    seen = watch("web")
    start_services(host)
    pod = {
        "metadata": {"name": "made", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}]},
        "status": {"podIP": "10.0.5.99"},
    }
    target = "/run/overlay/pods.d"
    script = f"mkdir -p {target} && cat >{target}/.x && mv {target}/.x {target}/made.json"
    subprocess.run(host.inside("sh", "-c", script), input=json.dumps(pod), text=True, check=True, timeout=LIMIT)
    assert seen.alone(ready={"made"})["ready"] == {"made": "10.0.5.99"}
    host.run("rm", "/run/overlay/pods.d/made.json")
    seen.alone(ready=set())


def test_each_wrong_input_is_said_with_its_remedy_and_the_rest_goes_on(
    host: DockerHost, watch: Callable[..., Watcher]
) -> None:
    """What people and other programs put into etcd, files and flags, all of it at once."""
    seen = watch("web")
    put_service(host)
    for name in ("one", "two"):
        put_service(host, name, clusterIP=f"10.96.0.{len(name) + ord(name[0]) % 8}", externalIPs=["198.51.100.7"])
    host.etcdctl("put", "/overlay/objects/services/default/broken", "{")
    host.etcdctl("put", "/skydns/local/cluster/dns-version", '{"text":"another\'s"}')
    host.etcdctl("put", "/overlay/config", '{"serviceCIDR":"10.0.5.0/24"}')
    host.run("sh", "-c", "mkdir -p /run/overlay/pods.d && echo nonsense >/run/overlay/pods.d/odd.json")
    start_services(host, "--publish-skydns", "--services-healthz-port=2379")

    wait_until(lambda: shown(report(host), "address-conflict", "198.51.100.7"), LIMIT, "two with one address")
    wait_until(lambda: shown(report(host), "malformed", "services/default/broken"), LIMIT, "what is no object")
    wait_until(lambda: shown(report(host), "skydns-refused", "dns-version"), LIMIT, "another's record")
    wait_until(lambda: shown(report(host), "service-cidr", "10.0.5.0/24"), LIMIT, "a range that is taken")
    wait_until(lambda: shown(report(host), "pods-directory", "odd.json"), LIMIT, "a file that is no pod")
    wait_until(lambda: shown(report(host), "health", "2379"), LIMIT, "a port that is taken")
    host.etcdctl("put", "/overlay/config", "no JSON")
    wait_until(lambda: shown(report(host), "config"), LIMIT, "a configuration that is none")
    wait_until(lambda: shown(report(host), "skydns"), LIMIT, "the same for the records")
    ident = host.container(*WEB, "--name", "web")
    seen.alone(ready={name_of("web", ident)})
    host.run("rm", "/run/flannel/subnet.env")
    wait_until(lambda: shown(report(host), "subnet", "overlay agent"), LIMIT, "no subnet")

    another = ("--state-dir", "/run/another", "--node-id", "another", "--proxy-mode", "none", "--dns-address", "none")
    host.start("another", sys.executable, "-m", "overlay", "services", "--node-name", "n1", *another)
    wait_until(lambda: shown(report(host, "/run/another"), "node-name", "--node-name"), LIMIT, "a name that is taken")


def test_a_daemon_that_may_not_write_to_etcd_says_so(host: DockerHost) -> None:
    """Who may only read is no node of the cluster."""
    for words in (
        "role add reader", "role grant-permission reader --prefix=true read /", "user add reader:secret",
        "user grant-role reader reader", "user add root:secret", "user grant-role root root", "auth enable",
    ):  # fmt: skip
        host.etcdctl(*words.split())
    launch_services(host, "--etcd-username=reader", "--etcd-password=secret")
    wait_until(lambda: shown(report(host), "registration"), LIMIT, "the problem")


def test_a_daemon_without_rights_and_tools_says_what_it_cannot_do(host: DockerHost) -> None:
    bounded = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    command = (sys.executable, "-m", "overlay", "services", "--node-name", "n1", "--state-dir", "/run/without")
    host.start("without", *bounded, *command)
    wait_until(lambda: shown(report(host, "/run/without"), "proxy", "--proxy-mode"), LIMIT, "no mode")
    wait_until(lambda: shown(report(host, "/run/without"), "dns", "no names are answered"), LIMIT, "no names")
    host.start("bare", *without("nft"), *command[:-1], "/run/bare")
    wait_until(lambda: shown(report(host, "/run/bare"), "dns-rules", "nftables"), LIMIT, "no nft")


def test_from_start_to_endpoint_in_200_ms(host: DockerHost, watch: Callable[..., Watcher]) -> None:
    """From the moment that Docker says the container started to the moment that a client would be told."""
    count = int(os.environ.get("OVERLAY_STARTS", "20"))
    put_service(host)
    seen = watch("web")
    start_services(host)
    took = []
    for number in range(count):
        ident = host.container(*WEB, "--name", f"c{number}")
        line = seen.alone(ready={name_of(f"c{number}", ident)})
        started = host.docker("inspect", "-f", "{{.State.StartedAt}}", ident)
        took.append(line["time"] - datetime.fromisoformat(f"{started[:26].rstrip('Z')}+00:00").timestamp())
        host.docker("rm", "--force", ident)
    took.sort()
    p99 = took[-1 - count // 100]
    told = [f"{word} {seconds * 1e3:.0f} ms" for word, seconds in (("median", statistics.median(took)), ("p99", p99))]
    print(f"{count} starts: {', '.join(told)}, {took[-1] * 1e3:.0f} ms at most")
    assert p99 < limit(0.2, 20.0)
