"""One backend after another: in which order they are asked, and what is left of one that could not be.

The backends here write down what they are asked; what real ones leave is seen in tests/netns/test_host_gw.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import ClassVar, NoReturn

import pytest

from overlay import backends
from overlay.backends.base import Applied, Desired, Flags
from overlay.backends.succession import NONE_YET, Succession
from overlay.datapath.base import DatapathStatus
from overlay.errors import DeviceError, NodeError
from overlay.model import Advertisement, BackendConfig, NetworkConfig, Peer, PeerTable
from overlay.node.interfaces import Underlay
from overlay.node.removal import Removal

HERE = IPv4Address("172.31.0.1")
ETH0 = Underlay("eth0", 2, 1500, HERE, HERE)
SUBNET = IPv4Network("10.0.5.0/24")
PEERS = PeerTable.of(None, [Peer(IPv4Network("10.0.6.0/24"), IPv4Address("172.31.0.2"))])

said: list[str] = []
"""What backends were asked, by whichever test runs."""


class Recorder:
    """A backend that writes down what it is asked.

    Attributes:
        failing: calls that do not succeed now.
        earlier: types that an earlier agent had.
    """

    type = "none"
    devices: frozenset[str] = frozenset()
    failing: ClassVar[set[str]] = set()
    earlier: ClassVar[set[str]] = set()

    def __init__(self, flags: Flags) -> None:
        pass

    def _say(self, call: str) -> None:
        said.append(f"{self.type} {call}")
        if f"{self.type} {call}" in Recorder.failing:
            raise (DeviceError if call == "prepare" else NodeError)("not now")

    def options(self, backend: BackendConfig) -> Mapping[str, object]:
        return {}

    def check(self, config: NetworkConfig) -> None:
        pass

    async def anticipate(self) -> bool:
        self._say("anticipate")
        return self.type in Recorder.earlier

    async def prepare(self, config: NetworkConfig, underlay: Underlay) -> Advertisement:
        self._say("prepare")
        return Advertisement(self.type, {"of": config.backend.options.get("n")})

    async def apply(self, desired: Desired) -> Applied:
        self._say("apply")
        return Applied(1500, "eth0")

    def set_peers(self, table: PeerTable) -> None:
        self._say(f"{len(table)} peers")

    async def status(self) -> DatapathStatus:
        return DatapathStatus(self.type, running=True)

    async def watch(self) -> NoReturn:
        self._say("watch")
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def close(self, *, given_back: bool = False) -> None:
        self._say("close, given back" if given_back else "close")

    def removals(self) -> tuple[Removal, ...]:
        def run() -> list[str]:
            self._say("remove")
            return []

        return (Removal(f"{self.type}'s", run),)


class One(Recorder):
    type = "one"


class Two(Recorder):
    type = "two"


@pytest.fixture
def succession(monkeypatch: pytest.MonkeyPatch) -> Succession:
    monkeypatch.setattr(backends, "_TABLE", {"one": One, "two": Two})
    monkeypatch.setattr(Recorder, "failing", set())
    monkeypatch.setattr(Recorder, "earlier", set())
    said.clear()
    return Succession(Flags())


def config(kind: str, number: int = 0) -> NetworkConfig:
    return NetworkConfig(None, None, BackendConfig(kind, {"n": number}))


def desired(kind: str) -> Desired:
    return Desired(config(kind), SUBNET, ETH0)


async def running(succession: Succession, kind: str) -> None:
    await succession.prepare(config(kind), ETH0)
    succession.set_peers(PEERS, kind)
    await succession.apply(desired(kind))


async def test_what_was_there_before_begins_before_the_config_is_known(succession: Succession) -> None:
    Recorder.earlier.add("one")
    await succession.anticipate()
    await running(succession, "one")
    assert said == ["one anticipate", "one prepare", "one 1 peers", "one apply", "two remove"]


async def test_what_was_begun_and_is_not_wanted_is_ended(succession: Succession) -> None:
    Recorder.earlier.add("one")
    await succession.anticipate()
    await succession.prepare(config("two"), ETH0)
    assert said == ["one anticipate", "two prepare", "one close"]
    said.clear()
    await succession.close()
    assert said == ["two close"]


async def test_what_was_begun_and_no_config_came_is_ended(succession: Succession) -> None:
    Recorder.earlier.add("two")
    await succession.anticipate()
    await succession.close()
    assert said == ["one anticipate", "two anticipate", "two close"]


async def test_the_lease_is_told_before_anything_is_applied(succession: Succession) -> None:
    assert await succession.status() == NONE_YET
    assert succession.advertisement(config("one", 1)) is None
    assert await succession.prepare(config("one", 1), ETH0)
    assert not await succession.prepare(config("one", 1), ETH0), "once is enough"
    assert succession.advertisement(config("one", 1)) == Advertisement("one", {"of": 1})
    assert succession.advertisement(config("one", 2)) is None, "with other options it may be another"
    assert said == ["one prepare"]


async def test_the_next_is_applied_before_the_former_is_closed_and_removed(succession: Succession) -> None:
    await running(succession, "one")
    assert said == ["one prepare", "one 1 peers", "one apply", "two remove"], "a former agent's, with the first"
    said.clear()
    await succession.prepare(config("two"), ETH0)
    succession.set_peers(PEERS, "two")
    await succession.apply(desired("two"))
    assert said == ["two prepare", "two 1 peers", "two apply", "one close", "one remove"]
    said.clear()
    await succession.apply(desired("two"))
    assert said == ["two apply"]
    assert (await succession.status()).name == "two"


async def test_peers_of_one_type_never_reach_the_backend_of_another(succession: Succession) -> None:
    await running(succession, "one")
    await succession.prepare(config("two"), ETH0)
    said.clear()
    succession.set_peers(PEERS, "two")
    assert said == []
    await succession.apply(desired("two"))
    succession.set_peers(PEERS, "two")
    assert said.count("two 1 peers") == 2
    assert "one 1 peers" not in said


async def test_what_cannot_be_prepared_leaves_the_former_running(succession: Succession) -> None:
    await running(succession, "one")
    Recorder.failing = {"two prepare"}
    with pytest.raises(DeviceError):
        await succession.prepare(config("two"), ETH0)
    assert succession.advertisement(config("two")) is None
    said.clear()
    await succession.apply(desired("one"))
    assert said == ["one apply"]


async def test_one_that_could_not_be_applied_is_tidied_up_when_the_config_goes_back(succession: Succession) -> None:
    await running(succession, "one")
    await succession.prepare(config("two"), ETH0)
    Recorder.failing = {"two apply"}
    for _ in range(2):
        with pytest.raises(NodeError):
            await succession.apply(desired("two"))
    assert "one close" not in said
    said.clear()
    await succession.prepare(config("one"), ETH0)
    succession.set_peers(PEERS, "one")
    await succession.apply(desired("one"))
    assert said == ["one prepare", "two close", "one 1 peers", "one apply", "two remove"]


async def test_what_could_not_be_removed_is_tried_again_and_told(succession: Succession) -> None:
    Recorder.failing = {"two remove"}
    await running(succession, "one")
    assert (await succession.apply(desired("one"))).failures == (), "nobody knows that there is anything of it"
    await succession.prepare(config("two"), ETH0)
    await succession.apply(desired("two"))
    Recorder.failing = {"two remove"}
    await succession.prepare(config("one"), ETH0)
    assert (await succession.apply(desired("one"))).failures == ("two's: not now",)
    assert (await succession.apply(desired("one"))).failures == ("two's: not now",)
    Recorder.failing = set()
    assert (await succession.apply(desired("one"))).failures == ()
    said.clear()
    await succession.apply(desired("one"))
    assert said == ["one apply"]


async def test_whichever_runs_is_watched_and_all_are_closed(succession: Succession) -> None:
    watching = asyncio.create_task(succession.watch())
    for kind in ("one", "two"):
        await running(succession, kind)
        async with asyncio.timeout(30):
            while f"{kind} watch" not in said:
                await asyncio.sleep(0)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await succession.prepare(config("one"), ETH0)
    said.clear()
    await succession.close(given_back=True)
    assert said == ["two close, given back", "one close, given back"]
