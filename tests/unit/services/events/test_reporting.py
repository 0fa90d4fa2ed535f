"""Which Events are written: nodes with mirrors on one store in memory, and a clock that is set."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from overlay.services.events import reporting
from overlay.services.events.reporting import AGAIN_SECONDS, BATCH, OF_ALL, OF_ONE_SERVICE, TTL, Plan, Remark, plan
from overlay.services.keys import Keys
from overlay.services.mirror import ServicesMirror
from overlay.services.objects.decoding import decode_as
from overlay.services.objects.kinds import EVENT
from overlay.store.contract import Delete, KeyRange, Put
from tests.support.memory_store import MemoryCore

KEYS = Keys()
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
REDIS = ("default", "redis")
LC = Remark(REDIS, "nftables has no scheduler lc")


class World:
    """One store and its clock; ``now`` in seconds since noon."""

    def __init__(self, *services: str) -> None:
        self.core = MemoryCore()
        self.now = 0.0
        self.leases = iter(range(1, 10**6))
        for name in services or ("redis",):
            self.put_service(name)

    def put_service(self, name: str, uid: str = "u1") -> None:
        metadata = {"name": name, "namespace": "default", "uid": uid}
        document = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}}
        key = KEYS.object("services", "default", name)
        self.core.commit((), (Put(key, json.dumps(document).encode()),), self.now)

    def mirror(self) -> ServicesMirror:
        self.core.expire(self.now)
        made = ServicesMirror(KEYS)
        made.load(self.core.read(KeyRange(KEYS.root), self.now), self.now)
        return made

    def plan(self, remarks: Iterable[Remark], node: str = "n1", skew: float = 0.0) -> Plan:
        now = NOON + timedelta(seconds=self.now + skew)
        return plan(self.mirror(), remarks, node, now, Random(f"{node} {self.now}"))

    def carry_out(self, wanted: Plan) -> bool:
        lease_id = next(self.leases)
        self.core.grant(lease_id, TTL, self.now)
        return self.core.commit(wanted.compares, wanted.operations(lease_id), self.now).succeeded

    def tell(self, *remarks: Remark, node: str = "n1") -> Plan:
        """One look of a node: what it found to do, and did."""
        wanted = self.plan(remarks, node)
        assert not wanted.events or self.carry_out(wanted)
        return wanted

    def events(self) -> list[dict[str, Any]]:
        self.core.expire(self.now)
        found = self.core.read(KeyRange(KEYS.objects("events")), self.now)
        return [json.loads(kv.value) for kv in found.items]


def test_a_remark_becomes_an_event_of_its_service() -> None:
    world = World()
    world.tell(LC)
    (event,) = world.events()
    assert event["involvedObject"] == {
        "apiVersion": "v1", "kind": "Service", "namespace": "default", "name": "redis", "uid": "u1",
    }  # fmt: skip
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "UnsupportedByProxyMode", LC.sentence)
    assert event["source"] == {"component": "overlay-services", "host": "n1"}
    assert (event["count"], event["firstTimestamp"], event["lastTimestamp"]) == (1, *["2026-03-01T12:00:00Z"] * 2)
    assert decode_as(EVENT, event).unknown == [], "all of it is Kubernetes' own"


def test_it_is_told_once_whoever_sees_it_and_however_often() -> None:
    world = World()
    world.tell(LC)
    assert world.tell(LC) == Plan(due=AGAIN_SECONDS)
    world.now = 100
    assert world.tell(LC, LC, node="n2") == Plan(due=AGAIN_SECONDS - 100), "nor by another, nor one that was restarted"


def test_of_two_that_see_it_at_once_one_tells() -> None:
    world = World()
    first, second = world.plan([LC], "n1"), world.plan([LC], "n2")
    assert world.carry_out(first)
    assert not world.carry_out(second)
    (event,) = world.events()
    assert event["source"]["host"] == "n1"


def test_what_lasts_is_counted_and_stays_and_what_is_over_goes_after_an_hour() -> None:
    world = World()
    over = Remark(REDIS, "nftables has no scheduler sed")
    world.tell(LC, over)
    for number in range(1, 7):
        world.now = number * AGAIN_SECONDS
        world.tell(LC)
    (event,) = world.events()
    assert (event["message"], event["count"]) == (LC.sentence, 7)
    assert (event["firstTimestamp"], event["lastTimestamp"]) == ("2026-03-01T12:00:00Z", "2026-03-01T14:00:00Z")
    world.now += TTL + 1
    assert world.events() == []


def test_a_service_that_is_gone_is_told_nothing_and_one_made_anew_is_told_anew() -> None:
    world = World()
    assert world.tell(Remark(("default", "gone"), "…")) == Plan()
    planned = world.plan([LC])
    world.core.commit((), (Delete(KEYS.object("services", *REDIS)),), world.now)
    assert not world.carry_out(planned), "it was deleted meanwhile"
    for uid in ("u1", "u2"):
        world.put_service("redis", uid)
        world.tell(LC)
    assert {event["involvedObject"]["uid"] for event in world.events()} == {"u1", "u2"}


def test_nodes_whose_clocks_differ_do_not_tell_it_in_turns() -> None:
    world = World()
    written = 0
    for _ in range(100):
        world.now += 10
        for node, skew in (("late", -7200.0), ("right", 0.0), ("early", 7200.0)):
            wanted = world.plan([LC], node, skew)
            written += bool(wanted.events) and world.carry_out(wanted)
            assert 0 < wanted.due <= AGAIN_SECONDS
    assert written <= 3, "in 1000 s"


def test_what_is_no_event_is_written_anew() -> None:
    world = World()
    world.tell(LC)
    (kv,) = world.core.read(KeyRange(KEYS.objects("events")), world.now).items
    for broken in (b"{", b'{"metadata":{"name":"x"},"lastTimestamp":7,"count":"many"}'):
        world.core.commit((), (Put(kv.key, broken),), world.now)
        world.tell(LC)
        (event,) = world.events()
        assert event["lastTimestamp"] == "2026-03-01T12:00:00Z"


def test_a_service_has_so_many_events_at_most() -> None:
    world = World("redis", "web")
    for number in range(OF_ONE_SERVICE):
        world.tell(Remark(REDIS, f"no scheduler {number}"))
    assert world.tell(LC).left_out == 1
    assert world.tell(Remark(("default", "web"), "…")).left_out == 0, "each has its own share"
    assert len(world.events()) == OF_ONE_SERVICE + 1
    world.now = AGAIN_SECONDS
    world.tell(Remark(REDIS, "no scheduler 1"))
    assert len(world.events()) == OF_ONE_SERVICE + 1, "one that is there is counted further"


def test_there_are_so_many_events_at_most_and_a_transaction_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"s{number}" for number in range(BATCH + 5)]
    world = World(*names)
    remarks = [Remark(("default", name), "…") for name in names]
    first = world.tell(*remarks)
    assert (len(first.events), first.due) == (BATCH, 0.0)
    assert len(first.compares) <= 128
    monkeypatch.setattr(reporting, "OF_ALL", BATCH + 2)
    assert world.tell(*remarks).left_out == 3
    assert len(world.events()) == BATCH + 2 < OF_ALL


def test_a_service_that_nobody_could_make_by_the_api_keeps_no_other_from_being_told() -> None:
    world = World("UPPER_case", "redis")
    assert world.tell(Remark(("default", "UPPER_case"), "…"), LC).left_out == 1
    assert [event["involvedObject"]["name"] for event in world.events()] == ["redis"]


def test_a_long_or_strange_sentence_is_cut() -> None:
    world = World()
    world.tell(Remark(REDIS, "no scheduler \x1b[2J" + "x" * 100_000))
    (event,) = world.events()
    assert len(event["message"]) == 1024
    assert event["message"].isprintable()
