"""Containers as pods: a table of what Docker says and what kubectl shows."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.services.objects.document import MAX_BYTES, Object, condition, encode
from overlay.services.pods.container import Container, ContainerFormatError, State, parse
from overlay.services.pods.mapping import MAX_ANNOTATIONS, REMARKS, Here, Mapper, documents
from overlay.services.pods.names import is_dns_label, is_label_key, is_label_value

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
HERE = Here("n1", IPv4Address("172.31.0.1"), (IPv4Network("10.0.5.0/24"),))
RUNNING = State("running", started="2026-11-28T09:00:43Z")
WEB = Container(
    id=ID,
    name="web",
    image="nginx:1",
    image_id="sha256:1",
    hostname=ID[:12],
    created="2026-11-28T09:00:42Z",
    labels={"app": "web"},
    state=RUNNING,
    addresses=(IPv4Address("10.0.5.2"),),
)


def pod_of(container: Container, *others: Container, here: Here = HERE) -> Object:
    found = documents([*others, container], here)
    return found[container.id]


def reason(pod: Object, kind: str = "Ready") -> str:
    return next(str(each.get("reason", "")) for each in pod["status"]["conditions"] if each["type"] == kind)


def message(pod: Object) -> str:
    return next(str(each.get("message", "")) for each in pod["status"]["conditions"] if each["type"] == "Ready")


def test_a_running_container_as_kubectl_shows_it() -> None:
    assert pod_of(WEB) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-01234",
            "namespace": "default",
            "uid": "01234567-89ab-cdef-0123-456789abcdef",
            "creationTimestamp": "2026-11-28T09:00:42Z",
            "labels": {"app": "web"},
            "annotations": {"overlay.io/container": "web"},
        },
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "web", "image": "nginx:1"}],
            "restartPolicy": "Never",
        },
        "status": {
            "phase": "Running",
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Initialized", "status": "True"},
                {"type": "ContainersReady", "status": "True"},
                {"type": "Ready", "status": "True"},
            ],
            "containerStatuses": [
                {
                    "name": "web",
                    "image": "nginx:1",
                    "imageID": "sha256:1",
                    "containerID": f"docker://{ID}",
                    "ready": True,
                    "started": True,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": "2026-11-28T09:00:43Z"}},
                }
            ],
            "hostIP": "172.31.0.1",
            "podIP": "10.0.5.2",
            "podIPs": [{"ip": "10.0.5.2"}],
            "startTime": "2026-11-28T09:00:43Z",
        },
    }


ENDED = {"started": "2026-11-28T09:00:43Z", "finished": "2026-11-28T09:01:00Z"}


@pytest.mark.parametrize(
    ("state", "phase", "ready", "shown"),
    [
        (State("created"), "Pending", False, {"waiting": {"reason": "ContainerCreating"}}),
        (
            State("created", error="no such file"),
            "Pending",
            False,
            {"waiting": {"reason": "RunContainerError", "message": "no such file"}},
        ),
        (RUNNING, "Running", True, {"running": {"startedAt": "2026-11-28T09:00:43Z"}}),
        (replace(RUNNING, health="starting"), "Running", False, {"running": {"startedAt": "2026-11-28T09:00:43Z"}}),
        (replace(RUNNING, health="unhealthy"), "Running", False, {"running": {"startedAt": "2026-11-28T09:00:43Z"}}),
        (replace(RUNNING, health="healthy"), "Running", True, {"running": {"startedAt": "2026-11-28T09:00:43Z"}}),
        (replace(RUNNING, status="paused"), "Running", False, {"running": {"startedAt": "2026-11-28T09:00:43Z"}}),
        (
            State("restarting", exit_code=3, **ENDED),  # type: ignore[arg-type]
            "Running",
            False,
            {"waiting": {"reason": "CrashLoopBackOff", "message": "Docker will start it again"}},
        ),
        (State("exited", exit_code=0, **ENDED), "Succeeded", False, "Completed"),  # type: ignore[arg-type]
        (State("exited", exit_code=3, **ENDED), "Failed", False, "Error"),  # type: ignore[arg-type]
        (State("exited", 137, out_of_memory=True, **ENDED), "Failed", False, "OOMKilled"),  # type: ignore[arg-type]
        (State("dead", exit_code=1, **ENDED), "Failed", False, "Error"),  # type: ignore[arg-type]
        (State("lost", started=ENDED["started"]), "Failed", False, "ContainerStatusUnknown"),
    ],
)
def test_how_a_container_is(state: State, phase: str, ready: bool, shown: dict[str, Any] | str) -> None:
    pod = pod_of(replace(WEB, state=state))
    (status,) = pod["status"]["containerStatuses"]
    assert (pod["status"]["phase"], condition(pod, "Ready"), status["ready"]) == (phase, ready, ready)
    assert condition(pod, "ContainersReady") is ready
    if isinstance(shown, str):
        assert status["state"]["terminated"]["reason"] == shown
        assert status["state"]["terminated"]["exitCode"] == (137 if state.status == "lost" else state.exit_code)
        assert status["state"]["terminated"]["finishedAt"] == (state.finished or None)
    else:
        assert status["state"] == shown
    if not ready:
        assert reason(pod) == "ContainersNotReady"


def test_what_people_look_for_when_it_is_not_ready() -> None:
    assert "health check unhealthy" in message(pod_of(replace(WEB, state=replace(RUNNING, health="unhealthy"))))
    assert pod_of(replace(WEB, state=replace(RUNNING, status="paused")))["status"]["reason"] == "Paused"
    crashing = pod_of(replace(WEB, state=State("restarting", exit_code=3), restarts=7, restart_policy="always"))
    (status,) = crashing["status"]["containerStatuses"]
    assert status["restartCount"] == 7
    assert status["lastState"]["terminated"]["exitCode"] == 3
    assert crashing["spec"]["restartPolicy"] == "Always"
    assert pod_of(replace(WEB, state=replace(RUNNING, status="removing")))["metadata"]["deletionTimestamp"]


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["10.0.5.2"], ["10.0.5.2"]),
        (["172.18.0.2", "10.0.5.9"], ["10.0.5.9"]),
        (["fd00:5::2", "10.0.5.9"], ["10.0.5.9", "fd00:5::2"]),
        (["10.0.5.3", "10.0.5.9"], ["10.0.5.3"]),
        (["172.18.0.2"], []),
        ([], []),
    ],
)
def test_the_address_is_the_one_inside_this_nodes_lease(addresses: list[str], expected: list[str]) -> None:
    here = replace(HERE, subnets=(IPv4Network("10.0.5.0/24"), IPv6Network("fd00:5::/64")))
    parsed = tuple(IPv6Address(each) if ":" in each else IPv4Address(each) for each in addresses)
    pod = pod_of(replace(WEB, addresses=parsed), here=here)
    assert [each["ip"] for each in pod["status"].get("podIPs", [])] == expected
    assert pod["status"].get("podIP", "") == (expected[0] if expected else "")
    assert condition(pod, "Ready") is bool(expected)
    if not expected:
        assert reason(pod) == "NoAddress"
        assert "10.0.5.0/24" in message(pod)
        assert all(each in message(pod) for each in addresses)


def test_without_a_subnet_nobody_has_an_address_and_each_says_why() -> None:
    assert "no subnet" in message(pod_of(WEB, here=replace(HERE, subnets=())))


def test_a_container_in_the_hosts_network_has_the_nodes_address() -> None:
    host = replace(WEB, host_network=True, addresses=())
    pod = pod_of(host)
    assert pod["spec"]["hostNetwork"] is True
    assert pod["status"]["podIP"] == "172.31.0.1"
    assert condition(pod, "Ready")
    nowhere = pod_of(host, here=replace(HERE, address=None))
    assert "podIP" not in nowhere["status"]
    assert "not known" in message(nowhere)


def test_containers_that_join_a_network_belong_to_its_pod() -> None:
    sidecar = Container(
        id=OTHER,
        name="log",
        image="log:2",
        joins=ID,
        state=replace(RUNNING, health="starting"),
        labels={"overlay.io/ports": "metrics=9100"},
    )
    third = replace(sidecar, id="1" * 64, name="log!", joins=OTHER, state=RUNNING, labels={})
    assert set(documents([sidecar, WEB, third], HERE)) == {ID}
    pod = pod_of(WEB, sidecar, third)
    assert [each["name"] for each in pod["spec"]["containers"]] == ["web", "log", "log-fedcb"]
    assert [each["ready"] for each in pod["status"]["containerStatuses"]] == [True, True, False]
    assert not condition(pod, "Ready")
    assert "[log-fedcb]" in message(pod)
    assert pod["spec"]["containers"][2]["ports"] == [{"name": "metrics", "containerPort": 9100, "protocol": "TCP"}]


def test_who_joins_what_is_gone_is_a_pod_of_its_own_without_an_address() -> None:
    pod = pod_of(replace(WEB, joins=OTHER, addresses=()))
    assert reason(pod) == "NoAddress"
    assert OTHER[:12] in message(pod)


def test_those_that_say_to_join_each_other_do_not_go_round_for_ever() -> None:
    one, two = replace(WEB, joins=OTHER), replace(WEB, id=OTHER, joins=ID)
    assert documents([one, two], HERE)


containers = st.builds(
    Container,
    id=st.sampled_from([ID, ID[:5] + "f" * 59, OTHER]),
    name=st.sampled_from(["web", "Web", "db"]),
    state=st.sampled_from([RUNNING, State("exited")]),
    joins=st.sampled_from(["", "", OTHER]),
)
moments = st.tuples(st.lists(containers, max_size=3, unique_by=lambda each: each.id), st.booleans())


@given(st.lists(moments, max_size=6))
def test_what_is_kept_from_before_is_what_would_be_made_anew(steps: list[tuple[list[Container], bool]]) -> None:
    mapper = Mapper()
    for listed, moved in steps:
        here = replace(HERE, address=None) if moved else HERE
        made = mapper.documents(listed, here)
        assert made == documents(listed, here)
        again = mapper.documents(listed, here)
        assert all(again[ident] is pod for ident, pod in made.items() if pod["metadata"]["name"][-6] == "-")


def test_two_containers_whose_names_come_out_alike_are_told_apart() -> None:
    twin = replace(WEB, id=ID[:5] + "f" * 59, name="WEB")
    pods = documents([WEB, twin], HERE)
    assert sorted(pod["metadata"]["name"] for pod in pods.values()) == ["web-01234", "web-01234f"]
    elsewhere = replace(twin, labels={"overlay.io/namespace": "shop"})
    names = [pod["metadata"]["name"] for pod in documents([WEB, elsewhere], HERE).values()]
    assert names == ["web-01234", "web-01234"]


@pytest.mark.parametrize(
    ("labels", "namespace", "told"),
    [
        ({}, "default", ""),
        ({"overlay.io/namespace": "shop"}, "shop", ""),
        ({"overlay.io/namespace": "Shop"}, "default", "overlay.io/namespace: 'Shop' is no DNS label"),
        ({"overlay.io/namespace": ""}, "default", "is no DNS label"),
    ],
)
def test_namespaces(labels: dict[str, str], namespace: str, told: str) -> None:
    metadata = pod_of(replace(WEB, labels=labels))["metadata"]
    assert metadata["namespace"] == namespace
    assert told in metadata["annotations"].get(REMARKS, "")
    assert bool(told) is (REMARKS in metadata["annotations"])


def test_ports_by_label_and_by_image() -> None:
    labels = {"overlay.io/ports": "http=80,oops=x,dns=53/udp"}
    pod = pod_of(replace(WEB, labels=labels, exposed=((80, "TCP"), (443, "TCP"))))
    assert pod["spec"]["containers"][0]["ports"] == [
        {"name": "http", "containerPort": 80, "protocol": "TCP"},
        {"name": "dns", "containerPort": 53, "protocol": "UDP"},
        {"containerPort": 443, "protocol": "TCP"},
    ]
    assert "oops=x" in pod["metadata"]["annotations"][REMARKS]


def test_composes_labels_are_understood() -> None:
    compose = {
        "com.docker.compose.project": "shop",
        "com.docker.compose.service": "db",
        "com.docker.compose.config-hash": "0" * 64,
        "com.docker.compose.project.working_dir": "/srv/shop",
        "com.docker.compose.oneoff": "False",
    }
    pod = pod_of(replace(WEB, labels=compose))
    assert pod["metadata"]["labels"]["app.kubernetes.io/name"] == "db"
    assert pod["metadata"]["labels"]["app.kubernetes.io/instance"] == "shop"
    assert pod["metadata"]["annotations"]["com.docker.compose.project.working_dir"] == "/srv/shop"
    assert condition(pod, "Ready")
    named = pod_of(replace(WEB, labels={**compose, "app.kubernetes.io/name": "mine"}))
    assert named["metadata"]["labels"]["app.kubernetes.io/name"] == "mine"
    one_off = pod_of(replace(WEB, labels={**compose, "com.docker.compose.oneoff": "True"}))
    assert not condition(one_off, "Ready")
    assert condition(one_off, "ContainersReady")
    assert reason(one_off) == "OneOff"


def test_host_names_that_somebody_chose() -> None:
    assert "hostname" not in pod_of(WEB)["spec"]
    labels = {"overlay.io/subdomain": "db"}
    assert pod_of(replace(WEB, hostname="db-0", labels=labels))["spec"]["hostname"] == "db-0"
    assert pod_of(replace(WEB, hostname="db-0", labels=labels))["spec"]["subdomain"] == "db"
    assert "hostname" not in pod_of(replace(WEB, hostname="DB.example"))["spec"]
    assert "subdomain" in pod_of(replace(WEB, labels={"overlay.io/subdomain": "D"}))["metadata"]["annotations"][REMARKS]


def test_labels_without_end_are_left_out_and_told() -> None:
    labels = {f"long{number}": "x" * 10_000 + " " for number in range(20)} | {"small": "a b"}
    pod = pod_of(replace(WEB, labels=labels))
    assert pod["metadata"]["annotations"]["small"] == "a b"
    assert "17 labels are left out" in pod["metadata"]["annotations"][REMARKS]
    assert len(encode(pod)) < 2 * MAX_ANNOTATIONS


_texts = st.text(max_size=80)


@given(
    st.builds(
        Container,
        id=st.text("0123456789abcdef", min_size=64, max_size=64),
        name=_texts,
        labels=st.dictionaries(_texts | st.sampled_from(["overlay.io/ports", "overlay.io/namespace"]), _texts),
        hostname=_texts,
        state=st.builds(State, st.sampled_from(["created", "running", "paused", "restarting", "exited", "x"])),
        host_network=st.booleans(),
        addresses=st.just((IPv4Address("10.0.5.2"),)),
    )
)
def test_whatever_docker_says_the_pod_is_one_that_kubernetes_takes(container: Container) -> None:
    pod = documents([container], HERE)[container.id]
    metadata = pod["metadata"]
    assert is_dns_label(metadata["name"])
    assert is_dns_label(metadata["namespace"])
    assert all(is_label_key(key) and is_label_value(value) for key, value in metadata["labels"].items())
    assert all(map(is_label_key, metadata["annotations"]))
    assert all(is_dns_label(each["name"]) for each in pod["spec"]["containers"])
    assert len(encode(pod)) < MAX_BYTES
    told = {**metadata["labels"], **metadata["annotations"]}
    others = msgspec.json.decode(metadata["annotations"].get("overlay.io/labels", "{}"))
    for key, value in container.labels.items():
        if key not in ("overlay.io/labels", "overlay.io/remarks", "overlay.io/container"):
            assert told.get(key, others.get(key)) == value, "nothing is dropped in silence"


def test_a_container_that_is_told_to_end_is_terminating_until_it_has() -> None:
    stopping = replace(RUNNING, stopping="2026-11-28T10:00:00Z")
    pod = pod_of(replace(WEB, state=stopping))
    assert pod["metadata"]["deletionTimestamp"] == "2026-11-28T10:00:00Z"
    assert condition(pod, "Ready"), "it serves whom it has"
    ended = pod_of(replace(WEB, state=replace(stopping, status="exited")))
    assert "deletionTimestamp" not in ended["metadata"]


@pytest.mark.parametrize(
    ("written", "number"), [("SIGQUIT", 3), ("quit", 3), ("9", 9), ("", 15), ("SIGRTMIN+3", 15), ("x", 15), ("٣", 15)]
)
def test_stop_signals(written: str, number: int) -> None:
    assert parse({"Id": ID, "Config": {"StopSignal": written}}).stop_signal == number


def test_what_docker_answers() -> None:
    answer = {
        "Id": ID,
        "Name": "/web",
        "Created": "2026-11-28T09:00:42.123456789Z",
        "Image": "sha256:1",
        "RestartCount": 2,
        "Config": {
            "Image": "nginx:1",
            "Hostname": ID[:12],
            "Labels": {"app": "web"},
            "ExposedPorts": {"443/tcp": {}, "53/udp": {}, "x/tcp": {}},
        },
        "HostConfig": {"NetworkMode": "default", "RestartPolicy": {"Name": "always"}},
        "State": {
            "Status": "running",
            "ExitCode": 0,
            "StartedAt": "2026-11-28T09:00:43.5Z",
            "FinishedAt": "0001-01-01T00:00:00Z",
            "Health": {"Status": "none"},
        },
        "NetworkSettings": {
            "Networks": {
                "bridge": {"IPAddress": "10.0.5.2", "GlobalIPv6Address": ""},
                "back": {"IPAddress": "bad", "GlobalIPv6Address": "fd00::2"},
            }
        },
    }
    container = parse(answer)
    assert container == replace(
        WEB,
        restarts=2,
        restart_policy="always",
        exposed=((53, "UDP"), (443, "TCP")),
        addresses=(IPv6Address("fd00::2"), IPv4Address("10.0.5.2")),
    )
    assert parse({**answer, "HostConfig": {"NetworkMode": f"container:{OTHER}"}}).joins == OTHER
    assert parse({**answer, "HostConfig": {"NetworkMode": "host"}}).host_network


@pytest.mark.parametrize("answer", [None, [], {}, {"Id": 7}, {"Id": ""}])
def test_what_is_no_container(answer: object) -> None:
    with pytest.raises(ContainerFormatError):
        parse(answer)


@pytest.mark.parametrize("junk", [None, 7, [], "x", {"Networks": 3, "Labels": [], "Health": 9}])
def test_parts_of_another_form_count_as_not_said(junk: object) -> None:
    names = ("Config", "HostConfig", "State", "NetworkSettings", "Created", "RestartCount", "Name")
    container = parse({"Id": ID, **dict.fromkeys(names, junk)})
    assert documents([container], HERE)
