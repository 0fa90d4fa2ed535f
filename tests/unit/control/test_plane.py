"""The control plane at work against a store in memory, with real tasks and a real clock."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from random import Random

import pytest

from overlay.control.engine import ControlSettings, ControlState, Engine, Span
from overlay.control.leases.allocator import Identity, Memory
from overlay.control.leases.state import Phase
from overlay.control.plane import ControlPlane
from overlay.errors import CompactedError, ConfigError, StoreDeniedError, StoreRestoredError, StoreUnavailableError
from overlay.model import Advertisement, NetworkConfig
from overlay.store.contract import Delete, Event, Events, KeyRange, KeyValue, Put, Snapshot
from overlay.store.follower import Read, Watch
from overlay.store.session import Grant
from tests.support.limits import limit
from tests.support.memory_store import MemoryCore, MemoryStore

CONFIG_KEY = "/coreos.com/network/config"
SUBNETS = "/coreos.com/network/subnets/"
IP = IPv4Address("172.31.0.1")
LIMIT = 20.0
"""Seconds that a condition may take; it takes milliseconds where nothing waits for a retry."""


def put(core: MemoryCore, key: str, value: str) -> None:
    core.commit([], [Put(key, value.encode())], time.monotonic())


def configure(core: MemoryCore, **fields: object) -> None:
    put(core, CONFIG_KEY, json.dumps({"Network": "10.0.0.0/16", **fields}))


def new_core() -> MemoryCore:
    core = MemoryCore()
    configure(core)
    return core


def plane_of(core: MemoryCore, name: str = "me", ip: IPv4Address = IP, **settings: object) -> ControlPlane:
    return ControlPlane(MemoryStore(core), ControlSettings(**settings), Identity(name, ip), rng=Random(name))  # type: ignore[arg-type]


@asynccontextmanager
async def running(*planes: ControlPlane) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(plane.run()) for plane in planes]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(plane: ControlPlane, condition: Callable[[ControlState], object]) -> ControlState:
    async with asyncio.timeout(LIMIT):
        state = plane.state
        while not condition(state):
            state = await plane.changed(state.version)
    return state


def is_held(state: ControlState) -> bool:
    return state.held is not None and state.phase is Phase.HELD


async def test_a_node_gets_its_subnet_and_sees_a_peer_come_move_and_go() -> None:
    core = new_core()
    plane = plane_of(core)
    async with running(plane):
        state = await until(plane, is_held)
        assert state.held is not None
        assert state.config is not None
        assert state.problems == ()
        assert state.store_connected
        assert state.memory.subnets == (state.held.subnet,)
        put(core, f"{SUBNETS}10.0.200.0-24", '{"PublicIP":"172.31.0.9"}')
        state = await until(plane, lambda state: len(state.peers) == 1)
        put(core, f"{SUBNETS}10.0.200.0-24", '{"PublicIP":"172.31.0.8"}')
        peer = IPv4Network("10.0.200.0/24")
        await until(plane, lambda state: state.peers.peers[peer].public_ip == IPv4Address("172.31.0.8"))
        core.remove(f"{SUBNETS}10.0.200.0-24", time.monotonic())
        await until(plane, lambda state: len(state.peers) == 0)


async def test_a_new_peer_is_seen_within_milliseconds() -> None:
    core = new_core()
    plane = plane_of(core)
    delays = []
    async with running(plane):
        await until(plane, is_held)
        for n in range(50):
            began = time.monotonic()
            put(core, f"{SUBNETS}10.0.{200 + n}.0-24", '{"PublicIP":"172.31.0.9"}')
            await until(plane, lambda state, n=n: len(state.peers) == n + 1)  # type: ignore[misc]
            delays.append(time.monotonic() - began)
    assert sorted(delays)[len(delays) // 2] < 0.02


async def test_two_hundred_agents_and_two_hundred_subnets() -> None:
    core = MemoryCore()
    configure(core, SubnetMin="10.0.1.0", SubnetMax="10.0.200.0")
    planes = [plane_of(core, f"n{n}", IP + n) for n in range(200)]
    logging.disable(logging.INFO)
    try:
        async with running(*planes), asyncio.timeout(4 * LIMIT):
            for plane in planes:
                state = plane.state
                while not (is_held(state) and len(state.peers) == 199):
                    state = await plane.changed(state.version)
    finally:
        logging.disable(logging.NOTSET)
    assert len({plane.state.held.subnet for plane in planes if plane.state.held}) == 200


async def test_a_wiped_store_gets_our_lease_back_and_the_config_is_told_missing() -> None:
    core = new_core()
    plane = plane_of(core)
    async with running(plane):
        before = await until(plane, is_held)
        core.wipe()
        gone = await until(plane, lambda state: "no network config" in " ".join(map(str, state.problems)))
        assert gone.config == before.config
        after = await until(
            plane, lambda state: core.read(KeyRange(SUBNETS), time.monotonic()).items and is_held(state)
        )
        assert after.held is not None
        assert before.held is not None
        assert after.held.subnet == before.held.subnet


async def test_without_the_store_all_stays_as_it_is() -> None:
    core = new_core()
    put(core, f"{SUBNETS}10.0.200.0-24", '{"PublicIP":"172.31.0.9"}')
    store = MemoryStore(core)
    plane = ControlPlane(store, ControlSettings(), Identity("me", IP))
    async with running(plane):
        before = await until(plane, lambda state: is_held(state) and len(state.peers) == 1)
        store.available = False
        away = await until(plane, lambda state: not state.store_connected)
        away = await until(plane, lambda state: state.problems)
        assert away.held == before.held
        assert away.peers is before.peers
        assert "no endpoint answered" in away.problems[0].text
        store.available = True
        back = await until(plane, lambda state: state.store_connected and not state.problems)
        assert back.held == before.held


async def test_a_store_that_is_not_there_yet_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """There is no traffic of which one could say that it goes on."""
    store = MemoryStore(new_core())
    store.available = False
    plane = ControlPlane(store, ControlSettings(), Identity("me", IP))
    async with running(plane):
        state = await until(plane, lambda state: state.problems)
        assert [problem.text for problem in state.problems] == ["store in memory: no endpoint answered; waiting for it"]
        store.available = True
        await until(plane, is_held)
        store.available = False
        state = await until(plane, lambda state: state.problems)
        assert state.problems[0].text.endswith("; trying again, traffic goes on as it is")
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [message.count("no endpoint answered") for message in warnings] == [1, 1]


def test_a_store_that_is_back_is_no_reason_to_tell_what_failed_before() -> None:
    """Followers and keeper each fail in words of their own; as each recovers, no older one of another is new."""
    core, engine = new_core(), Engine(ControlSettings(), Identity("me", IP), None, Random(1))
    now = 100.0

    def told() -> list[str]:
        engine.settle()
        return [problem.text.partition(";")[0] for problem in engine.state.problems]

    def fail(span: Span, words: str) -> None:
        assert isinstance(engine.next_step(span, now), Read | Watch)
        engine.lost(span, StoreUnavailableError(words), now)

    for span in Span:
        read(engine, core, span, now)
    assert told() == []
    assert isinstance(engine.next_action(now), Grant)
    for span in Span:
        fail(span, f"{span.value} failed")
    engine.failed(StoreUnavailableError("a grant failed"), now)
    assert told() == ["leases failed"]
    now += 10
    prove(engine, core, Span.LEASES, now)
    assert told() == ["leases failed"], "the config's failure is older"
    prove(engine, core, Span.CONFIG, now)
    assert told() == [], "the keeper's failure is older than the recovery"
    assert isinstance(engine.next_action(now), Grant)
    engine.failed(StoreUnavailableError("a grant failed"), now + 1)
    assert told() == ["the lease cannot be kept up: a grant failed"], "and this one is not"


def read(engine: Engine, core: MemoryCore, span: Span, now: float) -> None:
    assert isinstance(engine.next_step(span, now), Read)
    engine.loaded(span, core.read(engine.keys[span], now), now)


def prove(engine: Engine, core: MemoryCore, span: Span, now: float) -> None:
    assert isinstance(engine.next_step(span, now), Watch)
    known = engine.recall(span)
    assert known is not None
    assert known.agrees(core.recall(engine.keys[span], known.revision, known.keys, now))
    engine.proved(span, now)
    assert engine.recall(span) is None


def loaded_engine(core: MemoryCore, now: float) -> Engine:
    engine = Engine(ControlSettings(), Identity("me", IP), None, Random(1))
    for span in Span:
        read(engine, core, span, now)
        prove(engine, core, span, now)
    engine.settle()
    return engine


def test_of_two_configs_in_one_batch_the_later_counts() -> None:
    engine = loaded_engine(new_core(), 100.0)
    values = [f'{{"Network":"10.{n}.0.0/16"}}'.encode() for n in (7, 8)]
    events = tuple(Event(KeyValue(CONFIG_KEY, value, 50 + n)) for n, value in enumerate(values))
    assert engine.heard(Span.CONFIG, Events(51, events), 101.0)
    assert engine.settle()
    assert engine.state.config is not None
    assert engine.state.config.ipv4 is not None
    assert str(engine.state.config.ipv4.network) == "10.8.0.0/16"


def test_a_store_that_answers_again_is_not_waited_for() -> None:
    core = new_core()
    engine = loaded_engine(core, 100.0)
    now = 100.0
    for _ in range(10):
        assert isinstance(engine.next_action(now), Grant)
        engine.failed(StoreUnavailableError("away"), now)
        due = engine.next_action(now)
        assert isinstance(due, float)
        now = due
    assert isinstance(engine.next_action(now), Grant)
    engine.failed(StoreUnavailableError("away"), now)
    engine.lost(Span.LEASES, StoreUnavailableError("away"), now)
    now += 5
    assert isinstance(engine.next_action(now), float)
    prove(engine, core, Span.LEASES, now)
    assert isinstance(engine.next_action(now), Grant)


def test_a_proof_after_a_read_is_no_second_reason_not_to_wait() -> None:
    """A write that is refused in between would be tried again at once, and each time again with the next read."""
    core = new_core()
    engine = loaded_engine(core, 100.0)
    assert isinstance(engine.next_action(100.0), Grant)
    engine.failed(StoreUnavailableError("away"), 100.0)
    engine.lost(Span.LEASES, CompactedError(1), 100.0)
    now = 100.1
    read(engine, core, Span.LEASES, now)
    assert isinstance(engine.next_action(now), Grant), "the store answers again"
    engine.failed(StoreDeniedError("permission denied"), now)
    prove(engine, core, Span.LEASES, now)
    assert isinstance(engine.next_action(now), float)


@pytest.mark.parametrize("span", Span)
def test_a_watch_of_another_past_is_not_used(span: Span) -> None:
    """A backup that was restored, and has reached our revision again: with another lease, or another config."""
    core = new_core()
    put(core, f"{SUBNETS}10.0.200.0-24", '{"PublicIP":"172.31.0.9"}')
    engine = loaded_engine(core, 100.0)
    engine.lost(span, StoreUnavailableError("away"), 101.0)
    another = MemoryCore()
    put(another, CONFIG_KEY, '{"Network":"10.0.0.0/16"}' if span is Span.LEASES else '{"Network":"10.9.0.0/16"}')
    put(another, f"{SUBNETS}10.0.{201 if span is Span.LEASES else 200}.0-24", '{"PublicIP":"172.31.0.9"}')
    assert another.revision == core.revision
    assert isinstance(engine.next_step(span, 105.0), Watch)
    known = engine.recall(span)
    assert known is not None
    assert known.agrees(core.recall(engine.keys[span], known.revision, known.keys, 105.0))
    assert not known.agrees(another.recall(engine.keys[span], known.revision, known.keys, 105.0))


def test_a_restored_store_that_both_followers_notice_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    engine = loaded_engine(new_core(), 100.0)
    for span in Span:
        engine.lost(span, StoreRestoredError(7), 101.0)
    assert len(caplog.records) == 1


async def test_a_replaced_store_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    core = new_core()
    store = MemoryStore(core)
    plane = ControlPlane(store, ControlSettings(), Identity("me", IP))
    async with running(plane):
        before = await until(plane, is_held)
        put(core, f"{SUBNETS}10.0.200.0-24", '{"PublicIP":"172.31.0.9"}')
        await until(plane, lambda state: len(state.peers) == 1)
        store.available = False
        await until(plane, lambda state: state.problems)
        core.wipe()
        configure(core)
        store.available = True
        after = await until(plane, lambda state: is_held(state) and state.store_connected and not state.problems)
        assert after.held is not None
        assert before.held is not None
        assert after.held.subnet == before.held.subnet
    told = [record.message for record in caplog.records if "was restored from a backup or replaced" in record.message]
    assert len(told) == 1


async def test_waiting_for_a_config_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    core = MemoryCore()
    plane = plane_of(core)
    with caplog.at_level(logging.INFO):
        async with running(plane):
            state = await until(plane, lambda state: state.problems)
            assert "there is no network config" in state.problems[0].text
            for n in range(5):
                put(core, f"{SUBNETS}10.0.{n}.0-24", '{"PublicIP":"172.31.0.9"}')
                await asyncio.sleep(0)
            configure(core)
            await until(plane, is_held)
    told = [record.message for record in caplog.records if "no network config" in record.message]
    assert len(told) == 2
    assert told[1].startswith("over: ")


async def test_a_compatible_config_is_applied_live() -> None:
    """flannel 196, 1604: a changed config was ignored."""
    core = new_core()
    plane = plane_of(core)
    async with running(plane):
        held = (await until(plane, is_held)).held
        configure(core, Network="10.0.0.0/8", SubnetLen=24, Backend={"Type": "udp", "Port": 9999})
        state = await until(plane, lambda state: state.config and state.config.backend.options.get("port") == 9999)
        assert state.config is not None
        assert state.config.ipv4 is not None
        assert str(state.config.ipv4.network) == "10.0.0.0/8"
        assert state.held == held
        assert not state.problems


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"SubnetLen": 25}, "SubnetLen changed from 24 to 25"),
        ({"Network": "10.9.0.0/16"}, "is not one of 10.9.1.0 to 10.9.255.0"),
        ({"EnableIPv6": True, "IPv6Network": "fd00::/56"}, "EnableIPv6 changed"),
        ({"Network": "nonsense"}, "Network = nonsense"),
        ({"SubnetMin": "10.0.9.0", "SubnetMax": "10.0.8.0"}, "must not be above"),
    ],
)
async def test_a_config_that_cannot_be_is_refused_and_the_last_runs_on(fields: dict[str, object], text: str) -> None:
    core = new_core()
    plane = plane_of(core)
    async with running(plane):
        before = await until(plane, is_held)
        configure(core, **fields)
        refused = await until(plane, lambda state: state.problems)
        assert text in refused.problems[0].text
        assert refused.config == before.config
        assert refused.held == before.held
        configure(core)
        await until(plane, lambda state: not state.problems)


async def test_another_backend_is_gone_over_to_with_its_peers_and_the_subnet_stays() -> None:
    core = new_core()
    plane = plane_of(core)
    async with running(plane):
        held = (await until(plane, is_held)).held
        assert held is not None
        configure(core, Backend={"Type": "vxlan"})
        state = await until(plane, lambda state: state.held and state.held.lease.backend_type == "vxlan")
        assert state.held is not None
        assert (state.held.subnet, state.held.etcd_lease_id) == (held.subnet, held.etcd_lease_id)
        assert not state.problems


def runs(config: NetworkConfig | None, kind: str) -> bool:
    return config is not None and config.backend.type == kind


async def test_nothing_is_leased_before_the_backend_is_prepared() -> None:
    """A MAC address, or a public key, is in the lease from its first revision on."""
    prepared: dict[str, Advertisement] = {}
    core = new_core()
    configure(core, Backend={"Type": "vxlan"})
    plane = plane_of(core, advertise=lambda config: prepared.get(config.backend.type))
    async with running(plane):
        state = await until(plane, lambda state: runs(state.wanted, "vxlan"))
        assert (state.config, state.held) == (None, None)
        await asyncio.sleep(0.05)
        assert plane.state.held is None
        prepared["vxlan"] = Advertisement("vxlan", {"VtepMAC": "c6:00:00:00:00:01"})
        plane.check_again()
        state = await until(plane, is_held)
        assert state.config == state.wanted
        assert state.held is not None
        assert state.held.lease.backend_data == {"VtepMAC": "c6:00:00:00:00:01"}

        configure(core, Backend={"Type": "host-gw"})
        state = await until(plane, lambda state: runs(state.wanted, "host-gw"))
        assert runs(state.config, "vxlan"), "the former backend goes on until the new one is prepared"
        assert state.held is not None
        assert state.held.lease.backend_type == "vxlan"
        prepared["host-gw"] = Advertisement("host-gw")
        plane.check_again()
        state = await until(plane, lambda state: state.held and state.held.lease.backend_type == "host-gw")
        assert state.held is not None
        assert state.held.lease.backend_data is None


async def test_a_config_that_this_agent_cannot_run_is_waited_out() -> None:
    def check(config: NetworkConfig) -> None:
        if config.backend.type != "udp":
            raise ConfigError(f"backend {config.backend.type} is not one of ours")

    core = MemoryCore()
    configure(core, Backend={"Type": "vxlan"})
    plane = plane_of(core, check_config=check)
    async with running(plane):
        state = await until(plane, lambda state: state.problems)
        assert "vxlan is not one of ours" in state.problems[0].text
        assert state.held is None
        configure(core)
        await until(plane, is_held)


async def test_a_new_public_address_reaches_a_peer() -> None:
    """flannel 408, 1052, 760: a changed public address needed a restart."""
    core = new_core()
    one, two = plane_of(core, "a", IP), plane_of(core, "b", IP + 1)
    async with running(one, two):
        held = (await until(one, is_held)).held
        assert held is not None
        await until(two, lambda state: is_held(state) and len(state.peers) == 1)
        one.identify(Identity("a", IPv4Address("172.31.0.99")))
        await until(two, lambda state: state.peers.peers[held.subnet].public_ip == IPv4Address("172.31.0.99"))
        assert (await until(one, is_held)).held is not None


@pytest.mark.parametrize("what", ["our address", "our key is deleted", "another config", "release"])
async def test_what_comes_in_wakes_a_keeper_that_would_sleep_for_a_day(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overlay.control.plane.LONGEST_SLEEP", 86400.0)
    core = new_core()
    plane = plane_of(core, "me", IP, ttl=3 * 86400)
    async with running(plane):
        held = (await until(plane, is_held)).held
        assert held is not None
        await asyncio.sleep(0.1)  # until it sleeps
        match what:
            case "our address":
                plane.identify(Identity("me", IP + 1))
                await until(plane, lambda state: state.held and state.held.lease.public_ip == IP + 1)
            case "our key is deleted":
                core.remove(held.key, time.monotonic())
                await until(
                    plane, lambda state: is_held(state) and state.held and state.held.mod_revision > held.mod_revision
                )
            case "another config":
                # Our subnet goes to a node of another length, while a config waits that ours did not fit; of the one
                # that we run on all subnets are taken.
                configure(core, Network="10.9.0.0/16")
                await until(plane, lambda state: state.problems)
                everything = [Put(f"{SUBNETS}10.0.0.0-16", b'{"PublicIP":"172.31.0.9"}')]
                core.commit([], [Delete(held.key), *everything], time.monotonic())
                await until(
                    plane, lambda state: is_held(state) and state.held and str(state.held.subnet).startswith("10.9.")
                )
            case _:
                async with asyncio.timeout(LIMIT):
                    await plane.release()


async def test_release_gives_the_subnet_back() -> None:
    core = new_core()
    plane = plane_of(core)
    async with running(plane):
        await until(plane, is_held)
        async with asyncio.timeout(LIMIT):
            await plane.release()
    assert core.read(KeyRange(SUBNETS), time.monotonic()).items == ()
    assert plane.state.phase is Phase.RELEASED


async def test_the_past_is_remembered_across_a_reboot() -> None:
    """flannel 556, 2232: subnet.env in /run is lost at reboot, and with it the subnet."""
    core = new_core()
    memory = Memory((IPv4Network("10.0.123.0/24"),))
    plane = ControlPlane(MemoryStore(core), ControlSettings(), Identity("me", IP), memory)
    async with running(plane):
        state = await until(plane, is_held)
    assert state.held is not None
    assert state.held.subnet == memory.subnets[0]


async def test_every_change_is_seen_across_compaction() -> None:
    core = new_core()
    plane = plane_of(core)
    async with running(plane):
        await until(plane, is_held)
        for n in range(30):
            put(core, f"{SUBNETS}10.0.{n + 200}.0-24", '{"PublicIP":"172.31.0.9"}')
            core.compact()
        await until(plane, lambda state: len(state.peers) == 30)


async def test_a_store_that_denies_is_told_and_tried_again() -> None:
    class Denying(MemoryStore):
        denies = True

        async def read(self, span: KeyRange) -> Snapshot:
            if self.denies:
                raise StoreDeniedError("user overlay may not read", about="etcd", remedy="grant it the role")
            return await super().read(span)

    store = Denying(new_core())
    plane = ControlPlane(store, ControlSettings(), Identity("me", IP))
    async with running(plane):
        state = await until(plane, lambda state: state.problems)
        assert "may not read; grant it the role" in state.problems[0].text
        store.denies = False
        await until(plane, is_held)


async def test_away_for_long_it_costs_next_to_nothing() -> None:
    """flannel 1830, 2171: 200 % CPU after etcd is lost."""
    store = MemoryStore(new_core())
    plane = ControlPlane(store, ControlSettings(), Identity("me", IP))
    async with running(plane):
        await until(plane, is_held)
        store.available = False
        await until(plane, lambda state: state.problems)
        wall, used = time.monotonic(), time.process_time()
        while time.monotonic() - wall < 1.0:
            await asyncio.sleep(0.2)
        assert (time.process_time() - used) / (time.monotonic() - wall) < limit(0.05, 0.5)
