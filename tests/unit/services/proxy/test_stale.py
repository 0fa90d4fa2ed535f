"""Which flows of UDP are looked at anew when a Service changes, and that no other is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ipaddress import IPv4Network

import pytest

from overlay.linux.conntrack import Flow
from overlay.services.proxy.stale import StaleFlows, stale
from overlay.services.table import Backend, Entry, Frontend, Kind, Place, PortName, Table
from tests.support.problems import shown

PLACE = Place("n1", (IPv4Network("10.0.0.0/16"),), frozenset({"172.31.0.1"}))
A, B, C = (Backend(f"10.0.0.{number}", 5353, False) for number in (1, 2, 3))
FRONTENDS = (Frontend(Kind.CLUSTER_IP, "10.96.0.10", 53), Frontend(Kind.NODE_PORT, "", 30053))
NAME = PortName("kube-system", "dns", "dns", "UDP")


def table(*entries: Entry) -> Table:
    return Table(PLACE, {entry.name: entry for entry in entries})


def dns(*backends: Backend, draining: tuple[Backend, ...] = (), name: PortName = NAME) -> Entry:
    return Entry(name, FRONTENDS, backends, (), draining=draining)


def flow(destination: str, port: int, answering: Backend | None) -> Flow:
    """None: nobody has changed where it leads."""
    where = (destination, port) if answering is None else (answering.address, answering.port)
    return Flow("10.0.0.9", 40000, destination, port, *where)


@pytest.mark.parametrize("where", [("10.96.0.10", 53), ("172.31.0.1", 30053)])
def test_a_flow_stays_with_a_backend_that_serves_and_no_other(where: tuple[str, int]) -> None:
    to_a, to_b, to_c, to_nobody = (flow(*where, backend) for backend in (A, B, C, None))
    flows = [to_a, to_b, to_c, to_nobody]
    assert list(stale(flows, table(dns(A, draining=(B,))))) == [to_c, to_nobody]
    assert list(stale(flows, table(dns()))) == flows, "a Service without endpoints, too"


def test_flows_of_services_that_are_gone_go_and_others_stay() -> None:
    vip, port = flow("10.96.0.10", 53, A), flow("172.31.0.1", 30053, A)
    own, other = flow("172.31.0.1", 30053, None), flow("9.9.9.9", 53, None)
    flows = [vip, port, own, other]
    assert list(stale(flows, table(), frozenset({("", 30053)}))) == [vip, port]
    assert list(stale(flows, table())) == [vip]
    assert list(stale([flow("172.31.0.2", 30053, A)], table(dns(B)))) == [], "another node's affair"
    tcp = dns(B, name=NAME._replace(protocol="TCP"))
    assert list(stale([port], table(tcp))) == []


def test_it_is_told_by_changes_of_udp_alone() -> None:
    flows = StaleFlows()
    told = []
    web = dns(A, name=NAME._replace(protocol="TCP"))
    for each in (table(), table(web), table(web, dns(A)), table(web, dns(A)), table(web)):
        flows.occasion.take()
        flows.applied(each)
        told.append(flows.occasion._told.is_set())
    assert told == [True, False, True, False, True]


LOOK = """
import asyncio, json
from overlay.services.proxy.stale import StaleFlows
from overlay.services.table import Place, Table
flows = StaleFlows()
flows.applied(Table(Place("n1")))
print(json.dumps([problem.parts for problem in asyncio.run(flows.look()).problems]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_who_may_not_see_connections_says_so() -> None:
    bounded = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", sys.executable, "-c", LOOK)
    done = subprocess.run(bounded, capture_output=True, check=True, timeout=60)
    assert shown({"problem_details": json.loads(done.stdout)}, "flows")
