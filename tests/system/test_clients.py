"""Clients that are not kubectl, each as its users write it, against ``overlay api`` on the real etcd.

They are not this project's to depend on: ``make test-clients`` makes an environment of the Python ones and has vmagent
(Debian's package victoria-metrics) installed. ``OVERLAY_CLIENTS`` names the Python that has them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import ApiProcess, api_process
from tests.support.etcd import Etcd, do_without, free_ports
from tests.support.systemd import wait_until

pytestmark = pytest.mark.etcd

LIMIT = 120.0
PYTHON = os.environ.get("OVERLAY_CLIENTS", "")


KUBERNETES = """
import sys, threading
from kubernetes import client, config, watch
from kubernetes.informer import ADDED, DELETED, MODIFIED, SharedInformer

config.load_kube_config(sys.argv[1])
core, discovery = client.CoreV1Api(), client.DiscoveryV1Api()
ports = [client.V1ServicePort(port=80)]
web = client.V1Service(
    metadata=client.V1ObjectMeta(name="web"), spec=client.V1ServiceSpec(selector={"app": "redis"}, ports=ports)
)

heard, seen = [], threading.Event()
def hear(event):
    def handler(obj):
        heard.append((event, obj.metadata.name))
        if (DELETED, "web") in heard:
            seen.set()
    return handler
informer = SharedInformer(list_func=core.list_service_for_all_namespaces, resync_period=0)
for event in (ADDED, MODIFIED, DELETED):
    informer.add_event_handler(event, hear(event))
informer.start()

made = core.create_namespaced_service("default", web)
assert made.spec.cluster_ip.startswith("10."), made
version = core.list_namespaced_service("default").metadata.resource_version
patched = core.patch_namespaced_service("web", "default", {"metadata": {"labels": {"a": "b"}}})
assert patched.metadata.labels == {"a": "b"}

watcher, found = watch.Watch(), []
for event in watcher.stream(core.list_namespaced_service, "default", resource_version=version, timeout_seconds=60):
    found.append((event["type"], event["object"].metadata.labels))
    resumed = watcher.resource_version
    watcher.stop()
assert found == [("MODIFIED", {"a": "b"})], found

# A conflict is one, a stale version is refused, and what is wrong is told field by field.
try:
    core.create_namespaced_service("default", web)
except client.ApiException as error:
    assert error.status == 409, error
patched.metadata.resource_version = made.metadata.resource_version
try:
    core.replace_namespaced_service("web", "default", patched)
    raise SystemExit("a stale version was taken")
except client.ApiException as error:
    assert error.status == 409, error

pods = core.list_namespaced_pod("default", label_selector="app=redis")
assert [each.metadata.name for each in pods.items] == ["redis-1"]
addresses = core.read_namespaced_endpoints("web", "default").subsets[0].addresses
assert [each.ip for each in addresses] == ["127.0.0.9"], addresses
(piece,) = discovery.list_namespaced_endpoint_slice("default", label_selector="kubernetes.io/service-name=web").items
assert piece.endpoints[0].conditions.ready

deleted = core.delete_namespaced_service("web", "default")
assert deleted.metadata.name == "web"
watcher = watch.Watch()
for event in watcher.stream(core.list_namespaced_service, "default", resource_version=resumed, timeout_seconds=60):
    assert (event["type"], event["object"].metadata.name) == ("DELETED", "web"), event
    watcher.stop()
assert seen.wait(60), heard
informer.stop()
assert [event for event, name in heard if name == "web"] == [ADDED, MODIFIED, DELETED], heard
"""

LIGHTKUBE = """
import sys
from lightkube import Client, KubeConfig
from lightkube.core.exceptions import ApiError
from lightkube.models.core_v1 import ServicePort, ServiceSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Endpoints, Pod, Service

client = Client(config=KubeConfig.from_file(sys.argv[1]), namespace="default")
spec = ServiceSpec(selector={"app": "redis"}, ports=[ServicePort(port=80)])
made = client.create(Service(metadata=ObjectMeta(name="light"), spec=spec))
assert made.spec.clusterIP
listed = client.list(Service)
assert "light" in [each.metadata.name for each in listed]
client.patch(Service, "light", {"metadata": {"labels": {"a": "b"}}})
for event, obj in client.watch(Service, resource_version=made.metadata.resourceVersion):
    assert (event, obj.metadata.labels) == ("MODIFIED", {"a": "b"}), (event, obj)
    break
def port(number):
    ports = [ServicePort(port=number, name="web")]
    return Service(apiVersion="v1", kind="Service", metadata=ObjectMeta(name="applied"), spec=ServiceSpec(ports=ports))
assert client.apply(port(80), field_manager="one").spec.clusterIP
assert [each.port for each in client.apply(port(81), field_manager="one").spec.ports] == [81]
try:
    client.apply(Service(metadata=ObjectMeta(name="applied"), spec=ServiceSpec(ports=[ServicePort(port=81, name="x")])),
                 field_manager="two")
    raise SystemExit("that is another's")
except ApiError as error:
    assert error.status.code == 409 and 'conflict with "one"' in error.status.message, error
client.delete(Service, "applied")
assert client.get(Endpoints, "light").subsets[0].addresses[0].ip == "127.0.0.9"
assert [pod.status.podIP for pod in client.list(Pod, labels={"app": "redis"})] == ["127.0.0.9"]
client.delete(Service, "light")
try:
    client.get(Service, "light")
    raise SystemExit("it is there still")
except ApiError as error:
    assert error.status.code == 404
"""

KR8S = """
import sys
import kr8s
from kr8s.objects import Pod, Service

api = kr8s.api(kubeconfig=sys.argv[1])
service = Service(
    {"metadata": {"name": "krates", "namespace": "default"},
     "spec": {"selector": {"app": "redis"}, "ports": [{"port": 80}]}}, api=api,
)
service.create()
assert service.exists()
assert [pod.name for pod in service.ready_pods()] == ["redis-1"]
service.label({"a": "b"})
service.refresh()
assert service.labels["a"] == "b"
assert [pod.name for pod in api.get("pods", label_selector={"app": "redis"})] == ["redis-1"]
service.delete()
service.wait("delete", timeout=60)
"""

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "redis-1", "namespace": "default", "uid": "1", "labels": {"app": "redis"}},
    "spec": {"nodeName": "n1", "containers": [{"name": "redis", "image": "redis:7", "ports": [{"containerPort": 80}]}]},
    "status": {
        "phase": "Running", "podIP": "127.0.0.9", "podIPs": [{"ip": "127.0.0.9"}], "hostIP": "127.0.0.8",
        "conditions": [{"type": each, "status": "True"}
                       for each in ("PodScheduled", "Initialized", "ContainersReady", "Ready")],
        "containerStatuses": [{"name": "redis", "image": "redis:7", "imageID": "", "ready": True, "restartCount": 0,
                               "state": {"running": {}}}],
    },
}  # fmt: skip

NODE = {
    "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "uid": "n"}, "spec": {},
    "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.8"}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with Etcd(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture
def api(etcd: Etcd, tmp_path: Path) -> Iterator[ApiProcess]:
    """In front of a node with a pod, and of nothing else."""
    etcd.ctl("del", "--prefix", "/overlay/")
    etcd.ctl("put", "/overlay/pods/n1/1", json.dumps(POD))
    etcd.ctl("put", "/overlay/nodes/n1", json.dumps(NODE))
    etcd.ctl("put", "/overlay/alive/n1", "id")
    with api_process(etcd.urls[0], tmp_path) as found:
        yield found


@pytest.mark.parametrize(
    ("module", "script"), [("kubernetes", KUBERNETES), ("lightkube", LIGHTKUBE), ("kr8s", KR8S)],
    ids=["kubernetes", "lightkube", "kr8s"],
)  # fmt: skip
def test_a_python_client(api: ApiProcess, module: str, script: str, tmp_path: Path) -> None:
    python = PYTHON or sys.executable
    if subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"missing: {module} (make test-clients)")
    environment = {**os.environ, "HOME": str(tmp_path), "KUBECONFIG": str(api.kubeconfig)}
    done = subprocess.run(
        [python, "-c", script, str(api.kubeconfig)], capture_output=True, text=True, timeout=LIMIT, check=False,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


ROLES = {
    "pod": {"__meta_kubernetes_pod_name": "redis-1", "__meta_kubernetes_pod_ip": "127.0.0.9"},
    "endpoints": {"__meta_kubernetes_endpoints_name": "found", "__address__": "127.0.0.9:80"},
    "endpointslice": {"__meta_kubernetes_endpointslice_address_type": "IPv4", "__address__": "127.0.0.9:80"},
    "service": {"__meta_kubernetes_service_name": "found", "__address__": "found.default.svc:80"},
    "node": {"__meta_kubernetes_node_name": "n1"},
}
"""What each role finds. Nobody listens at these addresses, which are of loopback."""


def test_discovery_by_vmagent(api: ApiProcess, tmp_path: Path) -> None:
    """``kubernetes_sd_configs``, all roles at once, and a Service that is made while it runs."""
    program = shutil.which("vmagent") or os.environ.get("OVERLAY_VMAGENT", "")
    if not program:
        do_without("vmagent (package victoria-metrics)") if PYTHON else pytest.skip(
            "missing: vmagent (make test-clients)"
        )
    (port,) = free_ports(1)
    jobs = [{"job_name": role, "kubernetes_sd_configs": [{"role": role, "kubeconfig_file": str(api.kubeconfig)}]}
            for role in ROLES]  # fmt: skip
    config = tmp_path / "scrape.yml"
    config.write_text(json.dumps({"global": {"scrape_interval": "600s"}, "scrape_configs": jobs}))
    command = [program, f"-promscrape.config={config}", f"-httpListenAddr=127.0.0.1:{port}",
               "-remoteWrite.url=http://127.0.0.1:1/", f"-remoteWrite.tmpDataPath={tmp_path}/data"]  # fmt: skip
    log = (tmp_path / "vmagent.log").open("wb")
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log)
    made = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "found"},
            "spec": {"selector": {"app": "redis"}, "ports": [{"port": 80}]}}  # fmt: skip
    try:
        wait_until(lambda: "node" in targets(port), LIMIT, "a target")
        subprocess.run(api.kubectl("create", "-f", "-"), input=json.dumps(made), text=True, check=True, timeout=LIMIT)
        for role, labels in ROLES.items():
            wait_until(
                lambda role=role, labels=labels: any(  # type: ignore[misc]
                    labels.items() <= found.items() for found in targets(port).get(role, ())
                ),
                LIMIT, f"{role}: {labels} among {targets(port).get(role)}",
            )  # fmt: skip
    finally:
        process.kill()
        process.wait()
        log.close()


def targets(port: int) -> dict[str, list[dict[str, Any]]]:
    """What was discovered, by role."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/targets?state=active", timeout=10) as answer:
            found = json.load(answer)["data"]["activeTargets"]
    except OSError:
        return {}
    by_role: dict[str, list[dict[str, Any]]] = {}
    for each in found:
        by_role.setdefault(each["discoveredLabels"]["job"], []).append(each["discoveredLabels"])
    return by_role
