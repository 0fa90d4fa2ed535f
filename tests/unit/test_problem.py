"""A problem keeps its kind, whatever its words are."""

from __future__ import annotations

from ipaddress import IPv4Address
from random import Random

from overlay.control.engine import ControlSettings, Engine, Span
from overlay.control.leases.allocator import Identity
from overlay.errors import NodeError, OverlayError
from overlay.problem import Problem
from overlay.store.contract import KeyValue, Snapshot
from tests.support.problems import kinds, provoked


def test_what_is_about_one_thing_names_it_and_what_is_about_the_node_begins_with_its_code() -> None:
    assert Problem("drops", "2 % were dropped", "give it more").text == "drops: 2 % were dropped; give it more"
    assert Problem("leases", "3 more are malformed", about="leases").text == "3 more are malformed"


def test_an_error_is_told_as_it_reads_with_what_is_being_done() -> None:
    error = NodeError("is down", about="eth0", remedy="ip link set eth0 up")
    problem = Problem.of(error, "underlay", before="no peer is reached", after="trying again")
    assert problem.text == "no peer is reached: eth0: is down; ip link set eth0 up; trying again"
    assert problem.identity == ("underlay", "eth0")
    assert Problem.of(error, "underlay").text == str(error)
    bare = Problem.of(OverlayError("it broke"), "node")
    assert (bare.text, bare.identity) == ("it broke", ("node", "node"))


_NO_FAULT = "its loop calls nothing that fails: it reads what is in memory, or passes by what it cannot read"

UNSEEN = {
    "containers": "it takes more than 4,096 containers of a real Docker",
    "dns-namespaces": _NO_FAULT,
    "events": "who may not write to etcd has not its node's name either, which is said (registration), and tells none",
    "leftovers": "an address or a route that the kernel lists and does not remove",
    "neighbours": "no netlink socket is to be had; what the look itself does not find out is passed by",
    "place": _NO_FAULT,
    "pods": _NO_FAULT,
    "stale-sockets": "a kernel that has the programs, and ends no socket (CONFIG_INET_DIAG_DESTROY)",
    "state": _NO_FAULT,
}
"""Kinds that no test can provoke here, and why."""


def test_each_kind_of_problem_is_provoked_by_a_test_that_sees_it_with_its_remedy() -> None:
    seen = provoked()
    assert sorted(kinds().keys() - seen.keys() - UNSEEN.keys()) == []
    assert sorted(UNSEEN.keys() - kinds().keys()) == [], "kinds that are none any more"
    assert sorted(seen.keys() & UNSEEN.keys()) == [], "kinds that a test does see"


def test_the_control_planes_problems_have_their_kinds() -> None:
    """A config that is none, and a lease that is none: told apart by code, and by what they are about."""
    engine = Engine(ControlSettings("/net"), Identity("me", IPv4Address("172.31.0.1")), None, Random(1))
    items = {Span.CONFIG: KeyValue("/net/config", b"{", 5), Span.LEASES: KeyValue("/net/subnets/what", b"", 6)}
    for span, item in items.items():
        engine.next_step(span, 0.0)
        engine.loaded(span, Snapshot(10, (item,)), 0.0)
    engine.settle()
    assert {problem.identity for problem in engine.state.problems} == {
        ("config", "/net/config"),
        ("lease", "/net/subnets/what"),
    }
    assert all(problem.remedy for problem in engine.state.problems)
