"""Which questions a resolver asks of a name, and what is said of each answer."""

from __future__ import annotations

import pytest

from overlay.services.dns.explain import Step, explain
from overlay.services.dns.records import Code
from overlay.services.dns.zone import Pods
from tests.unit.services.dns import cases

PREFIX = "/overlay/objects/services/"


def steps(name: str, kind: str = "A", namespace: str = "testns", pods: Pods = Pods.INSECURE) -> list[Step]:
    zone = cases.zone(pods=pods)
    zone.reverse = cases.REVERSE_NETWORKS
    return list(explain(zone, name, kind, namespace, PREFIX))


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("svc1", ["svc1.testns.svc.cluster.local."]),
        ("svc1.testns", ["svc1.testns.testns.svc.cluster.local.", "svc1.testns.svc.cluster.local."]),
        ("svc1.testns.svc", ["svc1.testns.svc.testns.svc.cluster.local.", "svc1.testns.svc.svc.cluster.local.",
                             "svc1.testns.svc.cluster.local."]),
        ("svc1.testns.svc.cluster.local.", ["svc1.testns.svc.cluster.local."]),
        ("a.b.c.d.example.com", ["a.b.c.d.example.com."]),
        ("www.example.com", ["www.example.com.testns.svc.cluster.local.", "www.example.com.svc.cluster.local.",
                             "www.example.com.cluster.local.", "www.example.com."]),
    ],
)  # fmt: skip
def test_a_resolver_asks_one_question_after_another(name: str, asked: list[str]) -> None:
    found = steps(name)
    assert [each.name for each in found] == asked
    assert [each.ends for each in found] == [False] * (len(asked) - 1) + [True]


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("svc1", "A", "Service testns/svc1, its ClusterIP 10.0.0.1"),
        ("svc-dual-stack", "A", "Service testns/svc-dual-stack, its ClusterIP 10.0.0.3, 10::3"),
        ("hdls1", "A", "Service testns/hdls1, headless: 6 ready endpoints"),
        ("dup-name.hdls1", "A", "Service testns/hdls1, endpoint dup-name"),
        ("none.hdls1", "A", "Service testns/hdls1 has no ready endpoint none"),
        ("external", "A", "Service testns/external stands for ext.interwebs.test"),
        ("svc1", "AAAA", "Service testns/svc1 has no AAAA record"),
        ("_web._tcp.svc1", "SRV", "Service testns/svc1 has no port web of protocol tcp"),
        ("svc0", "A", "no Service testns/svc0"),
        ("x.y.z.svc1", "A", "no form that a name below cluster.local. has"),
        ("svc", "A", "no Service testns/svc"),
        ("testns.svc.cluster.local.", "A", "namespace testns, which has no records itself"),
        ("shop.svc.cluster.local.", "A", "namespace shop does not exist"),
        ("10-0-0-1.podns.pod.cluster.local.", "A", "an address by its name, in namespace podns"),
        ("10-0-0-1.shop.pod.cluster.local.", "A", "namespace shop does not exist"),
        ("web.podns.pod.cluster.local.", "A", "no address by its name"),
        ("dns-version.cluster.local.", "TXT", "a name that every cluster has"),
        ("1.0.0.10.in-addr.arpa.", "PTR", "the address of Service testns/svc1, Service testns/svcempty"),
        ("9.9.0.10.in-addr.arpa.", "PTR", "10.0.9.9 is of no Service and no endpoint"),
        ("www.example.com.", "A", "no name of the cluster"),
    ],
)
def test_each_answer_is_explained(name: str, kind: str, why: str) -> None:
    assert steps(name, kind)[0].why == why


def test_pods_by_their_addresses() -> None:
    name = "172-0-0-2.podns.pod.cluster.local."
    assert steps(name, pods=Pods.VERIFIED)[0].why == "no pod has that address in podns"
    assert steps(name, pods=Pods.DISABLED)[0].why == "names of pods are turned off (--dns-pods)"


def test_the_object_is_named_where_there_is_one() -> None:
    assert steps("svc1")[0].object == PREFIX + "testns/svc1"
    assert steps("svc0")[0].object == ""


def test_what_is_of_others_is_left_to_them() -> None:
    (*_, last) = steps("www.example.com")
    assert last.answer is None
    (first, *_) = steps("www.example.com")
    assert first.answer is not None
    assert first.answer.code is Code.NXDOMAIN
