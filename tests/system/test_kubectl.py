"""The unmodified kubectl on the real etcd: a session word for word, and every command of a table.

``OVERLAY_KUBECTLS=/a/kubectl:/b/kubectl`` runs all of it with each of those.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.etcd import Etcd, eventually
from tests.support.kubectl import LIMIT, Kubectl, kubectls, like

pytestmark = pytest.mark.etcd

EXAMPLES = Path(__file__).resolve().parents[2] / "docs/examples"

SERVICE_DEMO, MYAPP, HEADLESS = (
    (EXAMPLES / f"{name}.yaml").read_text() for name in ("service-demo", "myapp-svc", "myapp-svc-headless")
)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with Etcd(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture(params=kubectls(), ids=lambda program: program.replace("/", "-").strip("-"))
def kubectl(request: pytest.FixtureRequest, etcd: Etcd, tmp_path: Path) -> Kubectl:
    """On an empty cluster."""
    found = Kubectl.require(request.param, etcd.urls[0], tmp_path)
    etcd.ctl("del", "--prefix", "/overlay/")
    return found


def test_the_session_of_a_cluster_ip(kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f", "-", given=SERVICE_DEMO) == "service/redis created\n"
    like("""
NAME    TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)    AGE
redis   ClusterIP   10.…         <none>        6379/TCP   …s
""", kubectl("get", "svc"))  # fmt: skip
    described = kubectl("describe", "svc", "redis")
    for line in (
        "Name:              redis",
        "Namespace:         default",
        "Labels:            <none>",
        "Selector:          app=redis,role=logstor",
        "Type:              ClusterIP",
        "IP:                10.",
        "Port:              <unset>  6379/TCP",
        "TargetPort:        6379/TCP",
        "Endpoints:",
        "Session Affinity:  None",
        "Events:            <none>",
    ):
        assert re.search("^" + r" +".join(map(re.escape, line.split())), described, re.MULTILINE), (line, described)
    assert kubectl("apply", "-f", "-", given=SERVICE_DEMO) == "service/redis unchanged\n"
    changed = SERVICE_DEMO.replace("port: 6379", "port: 6380")
    assert kubectl("apply", "-f", "-", given=changed) == "service/redis configured\n"
    assert "6380/TCP" in kubectl("get", "svc", "redis")
    assert "6379/TCP" not in kubectl("get", "svc", "redis")


def test_the_session_of_a_node_port(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", given=MYAPP)
    like("""
NAME    TYPE       CLUSTER-IP   EXTERNAL-IP   PORT(S)        AGE
myapp   NodePort   10.…         <none>        80:30080/TCP   …s
""", kubectl("get", "svc", "myapp"))  # fmt: skip
    assert "sessionAffinity" in kubectl("explain", "svc.spec.sessionAffinity")
    assert (
        kubectl("patch", "svc", "myapp", "-p", '{"spec":{"sessionAffinity":"ClientIP"}}') == "service/myapp patched\n"
    )
    spec = json.loads(kubectl("get", "svc", "myapp", "-o", "json"))["spec"]
    assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}


def test_the_session_of_a_headless_service(kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f", "-", given=HEADLESS) == "service/myapp-svc created\n"
    like("""
NAME        TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)   AGE
myapp-svc   ClusterIP   None         <none>        80/TCP    …s
""", kubectl("get", "svc"))  # fmt: skip


@pytest.mark.parametrize(
    "field", ["service", "service.spec", "service.spec.type", "service.spec.ports", "pod.spec", "ns", "ep.subsets"]
)
def test_explain(kubectl: Kubectl, field: str) -> None:
    printed = kubectl("explain", field)
    assert "VERSION:" in printed
    assert "DESCRIPTION:" in printed


WORKS = [
    ("get svc", "redis"),
    ("get svc redis", "redis"),
    ("get svc -o wide", "app=redis,role=logstor"),
    ("get svc -o yaml", "clusterIP: 10."),
    ("get svc -o json", '"clusterIP": "10.'),
    ("get svc -o name", "service/redis"),
    ("get svc -o jsonpath={.items[*].metadata.name}", "redis"),
    ("get svc -o custom-columns=N:.metadata.name", "redis"),
    ("get svc --show-labels", "<none>"),
    ("get svc -L app", "APP"),
    ("get svc --sort-by .metadata.name", "redis"),
    ("get svc -A", "NAMESPACE"),
    ("get svc -A --chunk-size=1", "redis"),
    ("get svc --field-selector metadata.name=redis", "redis"),
    ("get svc -l !app", "redis"),
    ("get svc,ns", "namespace/default"),
    ("get all", "service/redis"),
    ("get ep", ""),
    ("get endpointslices", ""),
    ("get ns", "kube-system"),
    ("get pods -A -o wide", ""),
    ("get nodes", ""),
    ("get events", ""),
    ("describe ns default", "Active"),
    ("describe svc", "redis"),
    ("api-resources", "endpointslices"),
    ("api-versions", "discovery.k8s.io/v1"),
    ("version", "Server"),
    ("cluster-info", "127.0.0.1"),
    ("label svc redis a=b", "service/redis labeled"),
    ("annotate svc redis a.b/c=d", "service/redis annotated"),
    ("label svc redis a=b --dry-run=server", "service/redis"),
    ('patch svc redis --type merge -p {"metadata":{"labels":{"a":"b"}}}', "service/redis patched"),
    (
        'patch svc redis --type json -p [{"op":"add","path":"/metadata/labels","value":{"a":"b"}}]',
        "service/redis patched",
    ),
    ("set selector svc redis app=other", "service/redis selector updated"),
    ("create ns team", "namespace/team created"),
    ("create service clusterip web --tcp=80:8080", "service/web created"),
    ("create service nodeport web --tcp=80:http", "service/web created"),
    ("create service loadbalancer web --tcp=80", "service/web created"),
    ("create service externalname web --external-name a.example", "service/web created"),
    ("create service clusterip web --clusterip=None", "service/web created"),
    ("create service clusterip web --tcp=80 --dry-run=server", "service/web created (server dry run)"),
    ("expose svc redis --name other --port 80", "service/other exposed"),
    ("delete svc redis", 'service "redis" deleted'),
    ("delete svc redis --dry-run=server", "(server dry run)"),
    ("delete svc --all", 'service "redis" deleted'),
    ("delete svc -l !app", 'service "redis" deleted'),
    ("delete svc redis --now", 'service "redis" deleted'),
    ("get svc redis -o jsonpath={.metadata.managedFields[*].manager}", "kubectl-client-side-apply"),
]
"""Commands on the cluster with the Service ``redis``, and what is among what they print."""

REFUSED = [
    ("get svc nothing", 'Error from server (NotFound): services "nothing" not found'),
    ("create service clusterip redis --tcp=80", "already exists"),
    (
        'patch svc redis -p {"spec":{"type":"NodePrt"}}',
        'The Service "redis" is invalid: spec.type: Unsupported value: "NodePrt"',
    ),
    ('patch svc redis -p {"spec":{"clusterIP":"10.96.0.250"}}', "may not change once set"),
    ("create service clusterip web --clusterip=10.1.1.1 --tcp=80", "not in the valid range"),
    ("create service nodeport web --tcp=80 --node-port=80", "The range of valid ports is 30000-32767"),
    ("delete ns default", "this namespace may not be deleted"),
    ("-n nowhere create service clusterip web --tcp=80", 'namespaces "nowhere" not found'),
    ("run web --image nginx", "start and stop them with Docker"),
    ("get secrets", 'the server doesn\'t have a resource type "secrets"'),
    ("get ingress", 'the server doesn\'t have a resource type "ingress"'),
    ("create deployment web --image nginx", "error"),
    ("logs web", "NotFound"),
    ("exec web -- true", "NotFound"),
    ("top nodes", "error"),
    ("auth can-i get svc", "could not find the requested resource"),
]
"""Commands that are refused, and what is among what they say of it."""


@pytest.mark.parametrize(("command", "printed"), WORKS, ids=[command for command, _ in WORKS])
def test_a_command_that_works(kubectl: Kubectl, command: str, printed: str) -> None:
    kubectl("apply", "-f", "-", given=SERVICE_DEMO)
    assert printed in kubectl(*command.split(" "))


@pytest.mark.parametrize(("command", "told"), REFUSED, ids=[command for command, _ in REFUSED])
def test_a_command_that_is_refused_says_so(kubectl: Kubectl, command: str, told: str) -> None:
    kubectl("apply", "-f", "-", given=SERVICE_DEMO)
    ran = kubectl.run(*command.split(" "))
    assert ran.status == 1, ran
    assert told.lower() in ran.err.lower(), ran


def test_diff_shows_what_apply_would_do(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", given=SERVICE_DEMO)
    assert kubectl.run("diff", "-f", "-", given=SERVICE_DEMO).status == 0
    ran = kubectl.run("diff", "-f", "-", given=SERVICE_DEMO.replace("6379", "6380"))
    assert ran.status == 1, ran
    assert "-  - port: 6379" in ran.out
    assert "+  - port: 6380" in ran.out


def ports(*names: str) -> str:
    """A manifest with ports of these names, TCP and UDP of 53."""
    listed = "".join(
        f"  - {{port: 53, name: {name}, protocol: {protocol}}}\n"
        for name, protocol in zip(names, ("TCP", "UDP"), strict=False)
    )
    return f"apiVersion: v1\nkind: Service\nmetadata: {{name: names}}\nspec:\n  ports:\n{listed}"


def names(kubectl: Kubectl) -> str:
    return kubectl("get", "svc", "names", "-o", "jsonpath={.spec.ports[*].name}")


def minor(kubectl: Kubectl) -> int:
    """The second number of its version."""
    told = json.loads(kubectl("version", "--client", "-o", "json"))
    return int(re.sub(r"\D", "", told["clientVersion"]["minor"]))


SERVER_SIDE = ("apply", "--server-side", "-f", "-")


def test_apply_on_the_side_of_the_server(kubectl: Kubectl) -> None:
    for given in (ports("tcp", "udp"), ports("tcp", "udp")):
        assert kubectl(*SERVER_SIDE, given=given) == "service/names serverside-applied\n"
    version = kubectl("get", "svc", "names", "-o", "jsonpath={.metadata.resourceVersion}")
    kubectl(*SERVER_SIDE, given=ports("tcp", "udp"))
    assert kubectl("get", "svc", "names", "-o", "jsonpath={.metadata.resourceVersion}") == version
    kubectl(*SERVER_SIDE, given=ports("tcp", "dns"))
    assert names(kubectl) == "tcp dns"  # client-side apply may rename the other one
    ran = kubectl.run("diff", "--server-side", "-f", "-", given=ports("tcp"))
    assert (ran.status, "-  - name: dns" in ran.out) == (1, True), ran
    kubectl(*SERVER_SIDE, given=ports("tcp"))
    assert names(kubectl) == "tcp"
    if minor(kubectl) >= 21:  # others show them always
        assert "managedFields" not in kubectl("get", "svc", "names", "-o", "yaml")
        assert "operation: Apply" in kubectl("get", "svc", "names", "-o", "yaml", "--show-managed-fields")


def test_two_who_apply_hear_of_each_other(kubectl: Kubectl) -> None:
    kubectl(*SERVER_SIDE, given=ports("tcp"))
    ran = kubectl.run(*SERVER_SIDE, "--field-manager=other", given=ports("dns"))
    assert ran.status == 1, ran
    assert 'Apply failed with 1 conflict: conflict with "kubectl": .spec.ports[port=53,protocol="TCP"].name' in ran.err
    assert "Please review the fields above--they currently have other managers" in ran.err
    assert names(kubectl) == "tcp"
    kubectl(*SERVER_SIDE, "--field-manager=other", "--force-conflicts", given=ports("dns"))
    assert names(kubectl) == "dns"
    assert 'conflict with "other"' in kubectl.run(*SERVER_SIDE, given=ports("tcp")).err
    kubectl(*SERVER_SIDE, given=ports("dns"))  # the same value is shared
    kubectl("patch", "svc", "names", "--type=merge", "-p", '{"spec":{"selector":{"a":"b"}}}')
    told = kubectl.run(*SERVER_SIDE, given=ports("dns") + "  selector: {a: c}\n").err
    assert 'conflict with "kubectl-patch" using v1: .spec.selector' in told
    kubectl(*SERVER_SIDE, "--dry-run=server", "--force-conflicts", given=ports("x"))
    assert names(kubectl) == "dns"


def test_from_the_side_of_the_client_to_that_of_the_server(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", given=ports("tcp", "udp"))
    kubectl(*SERVER_SIDE, given=ports("dns", "udp"))
    assert names(kubectl) == "dns udp"
    kubectl(*SERVER_SIDE, given=ports("dns"))
    if minor(kubectl) >= 26:  # others do not move what they own to the server's side
        assert names(kubectl) == "dns"
        owners = kubectl("get", "svc", "names", "-o", "jsonpath={.metadata.managedFields[*].manager}")
        assert set(owners.split()) == {"kubectl", "kubectl-last-applied"}
    kubectl("apply", "-f", "-", given=ports("tcp"))
    assert names(kubectl).split()[0] == "tcp"


def test_replace_keeps_the_address(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", given=SERVICE_DEMO)
    address = kubectl("get", "svc", "redis", "-o", "jsonpath={.spec.clusterIP}")
    kubectl("replace", "-f", "-", given=SERVICE_DEMO.replace("6379", "6380"))
    assert kubectl("get", "svc", "redis", "-o", "jsonpath={.spec.clusterIP}") == address
    kubectl("replace", "--force", "-f", "-", given=SERVICE_DEMO)


def test_edit(kubectl: Kubectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/port: 6379/port: 6380/' \"$1\"\n")
    editor.chmod(0o755)
    monkeypatch.setenv("KUBE_EDITOR", "")
    monkeypatch.setenv("EDITOR", str(editor))
    kubectl("apply", "-f", "-", given=SERVICE_DEMO)
    assert "service/redis edited" in kubectl("edit", "svc", "redis")
    ports = json.loads(kubectl("get", "svc", "redis", "-o", "json"))["spec"]["ports"]
    assert [port["port"] for port in ports] == [6380]


def test_a_namespace_goes_with_what_it_has(kubectl: Kubectl, etcd: Etcd) -> None:
    kubectl("create", "ns", "team")
    kubectl("-n", "team", "create", "service", "clusterip", "web", "--tcp=80")
    kubectl("delete", "ns", "team")
    assert "web" not in kubectl("get", "svc", "-A")
    assert "addresses" not in etcd.ctl("get", "--prefix", "/overlay/", "--keys-only")


def test_unknown_fields_are_refused_or_warned_of(kubectl: Kubectl) -> None:
    ran = kubectl.run("apply", "-f", "-", given=SERVICE_DEMO.replace("selector:", "slector:"))
    assert ran.status == 1, ran
    assert "slector" in ran.err
    kubectl("apply", "--validate=false", "-f", "-", given=SERVICE_DEMO.replace("selector:", "slector:"))
    assert "slector" not in kubectl("get", "svc", "redis", "-o", "jsonpath={.spec}")


POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "redis-1", "namespace": "default", "uid": "1", "labels": {"app": "redis", "role": "logstor"},
    },
    "spec": {"nodeName": "n1", "containers": [{"name": "redis", "image": "redis:7"}]},
    "status": {
        "phase": "Running",
        "podIP": "10.244.1.190",
        "podIPs": [{"ip": "10.244.1.190"}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "redis", "ready": True, "restartCount": 0, "state": {"running": {}}}],
    },
}  # fmt: skip


def test_the_endpoints_of_a_service_are_shown_by_all_who_show_them(kubectl: Kubectl, etcd: Etcd) -> None:
    kubectl("apply", "-f", "-", given=SERVICE_DEMO)
    etcd.ctl("put", "/overlay/pods/n1/1", json.dumps(POD))
    assert re.search(r"^Endpoints: +10\.244\.1\.190:6379$", kubectl("describe", "svc", "redis"), re.MULTILINE)
    like("""
NAME    ENDPOINTS           AGE
redis   10.244.1.190:6379   …s
""", kubectl("get", "ep"))  # fmt: skip
    assert "10.244.1.190" in kubectl("get", "endpointslices")
    like("""
NAME      READY   STATUS    RESTARTS   AGE         IP             NODE   NOMINATED NODE   READINESS GATES
redis-1   1/1     Running   0          <unknown>   10.244.1.190   n1     <none>           <none>
""", kubectl("get", "pods", "-o", "wide", "-l", "app=redis"))  # fmt: skip
    ran = kubectl.run("delete", "ep", "redis")
    assert "computed from the pods that Service redis selects" in ran.err
    assert "with Docker on their node" in kubectl.run("delete", "pod", "redis-1").err


@asynccontextmanager
async def printing(kubectl: Kubectl, *arguments: str) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """A command that goes on until the context ends; gives what waits until a line of it has a text."""
    process = subprocess.Popen(
        kubectl.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )  # fmt: skip
    assert process.stdout is not None
    out, lines = process.stdout, list[str]()
    reader = threading.Thread(target=lambda: lines.extend(iter(out.readline, "")), daemon=True)

    async def printed(text: str) -> None:
        async def there() -> bool:
            assert process.poll() is None, lines
            return any(text in line for line in lines)

        await eventually(there, limit=LIMIT)

    try:
        reader.start()
        yield printed
    finally:
        process.terminate()
        process.wait(LIMIT)
        reader.join(LIMIT)
        out.close()


@pytest.mark.parametrize("resource", ["endpoints", "endpointslices", "pods"])
async def test_a_pod_is_told_to_whoever_watches(kubectl: Kubectl, etcd: Etcd, resource: str) -> None:
    kubectl("apply", "-f", "-", given=SERVICE_DEMO)
    etcd.ctl("put", "/overlay/pods/n1/0", json.dumps(POD).replace("10.244.1.190", "10.244.1.9"))
    async with printing(kubectl, "get", resource, "-w", "--no-headers", "-o", "wide") as printed:
        await printed("10.244.1.9")
        etcd.ctl("put", "/overlay/pods/n1/1", json.dumps(POD).replace("redis-1", "redis-2"))
        await printed("10.244.1.190")


async def test_watch_prints_what_happens(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", given=SERVICE_DEMO)
    async with printing(kubectl, "get", "svc", "-w", "--no-headers") as printed:
        await printed("redis")
        kubectl("apply", "-f", "-", given=MYAPP)
        await printed("80:30080/TCP")


async def test_wait_ends_when_it_is_gone(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", given=SERVICE_DEMO)
    command = kubectl.command("wait", "--for=delete", "svc/redis", "--timeout=100s")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        kubectl("delete", "svc", "redis")
        out, _ = process.communicate(timeout=LIMIT)
        # 1.20 says so, and ends with 1, where it is gone before the wait has begun.
        assert process.returncode == 0 or "no matching resources found" in out, out
    finally:
        process.kill()
        process.communicate()


def test_nothing_is_left_behind(kubectl: Kubectl) -> None:
    """Neither a cache that grows with every command, nor a kubeconfig."""
    kubectl("get", "svc")
    assert list(kubectl.home.rglob("*")) == []


def test_a_kubectl_that_is_not_there_is_told(kubectl: Kubectl) -> None:
    ran = Kubectl("kubectl-of-nowhere", kubectl.endpoint, kubectl.home).run("get", "svc")
    assert ran.status == 1
    assert "kubectl-of-nowhere: there is no such program" in ran.err


def test_etcd_that_is_not_there_is_told(kubectl: Kubectl) -> None:
    ran = Kubectl(kubectl.program, "http://127.0.0.1:1", kubectl.home).run("get", "svc", "--request-timeout=10s")
    assert ran.status == 1
    assert "etcd" in ran.err
