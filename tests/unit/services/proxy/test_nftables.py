"""nftables' transactions against a model of the kernel that takes them one after another, as text."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from ipaddress import IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.services.proxy.nftables.ledger import LINGER, MAX_OPERATIONS, Found, Ledger
from overlay.services.proxy.nftables.rendering import FRAME, MAPS, MAX_NAME, TABLE, frame, render
from overlay.services.table import Backend, Entry, Frontend, Kind, Place, PortName

PLACE = Place("n1", (IPv4Network("10.0.0.0/16"),), frozenset({"172.31.0.1"}))


@dataclass
class Kernel:
    """As much of nftables as the commands use; what the kernel would refuse, it refuses."""

    chains: dict[str, list[str]] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    maps: dict[str, dict[str, str]] = field(default_factory=dict)

    def take(self, commands: list[str]) -> None:
        for command in commands:
            verb, kind, *rest = command.split(" ", 4)
            if kind == "table":
                continue
            family, table, name = rest[0], rest[1], rest[2].split(" ")[0]
            assert (family, table) == ("ip", TABLE)
            content = command.split(f" {TABLE} {name}", 1)[1].strip()
            getattr(self, f"{verb}_{kind}")(name, content)
        for name, rules in self.chains.items():
            for rule in rules:
                self._refers(rule, name)
        for elements in self.maps.values():
            for verdict in elements.values():
                self._refers(verdict, "an element")

    def _refers(self, text: str, where: str) -> None:
        words = text.replace("{", " ").replace("}", " ").replace(",", " ").split()
        for before, word in itertools.pairwise(words):
            if before in ("goto", "jump"):
                assert word in self.chains, f"{where} leads to {word}, which is not there"
        for word in words:
            if word.startswith("@"):
                assert word[1:] in self.sets or word[1:] in self.maps, f"{where} uses {word}"

    def add_map(self, name: str, content: str) -> None:
        self.maps.setdefault(name, {})

    def add_set(self, name: str, content: str) -> None:
        if name in MAPS:
            self.maps.setdefault(name, {})
        else:
            assert name not in self.sets
            self.sets[name] = content

    def add_chain(self, name: str, content: str) -> None:
        assert len(name) <= MAX_NAME
        self.chains.setdefault(name, [])

    def flush_chain(self, name: str, content: str) -> None:
        self.chains[name] = []

    def add_rule(self, name: str, content: str) -> None:
        marked = "ct mark set ct mark | 0x200000 dnat" in content
        assert marked or " dnat ip to" not in content, "what is given a backend is known by that"
        self.chains[name].append(content)

    def delete_chain(self, name: str, content: str) -> None:
        del self.chains[name]

    def delete_set(self, name: str, content: str) -> None:
        del self.sets[name]

    def add_element(self, name: str, content: str) -> None:
        key, _, value = content.strip("{} ").partition(" : ")
        assert key not in self.maps[name], f"{key} is in {name} already"
        self.maps[name][key] = value

    def delete_element(self, name: str, content: str) -> None:
        del self.maps[name][content.strip("{} ")]

    def found(self) -> Found:
        elements = {(name, key): value for name, each in self.maps.items() for key, value in each.items()}
        return Found(frozenset(self.chains), frozenset(self.sets), elements)

    def carry_out(self, ledger: Ledger, now: float) -> None:
        for batch in ledger.batches(now):
            self.take(batch.commands)
            ledger.done(batch)


def backends(numbers: set[int]) -> tuple[Backend, ...]:
    return tuple(Backend(f"10.0.{number}.2", 8080, number == 1) for number in sorted(numbers))


@st.composite
def entries(draw: st.DrawFn) -> dict[PortName, Entry]:
    made = {}
    for number in draw(st.sets(st.integers(1, 4))):
        protocol = draw(st.sampled_from(["TCP", "UDP"]))
        name = PortName("default", f"s{number}", "", protocol)
        frontends = [Frontend(Kind.CLUSTER_IP, f"10.96.0.{number // 2}", number)]
        frontends += draw(st.sampled_from([[], [Frontend(Kind.NODE_PORT, "", 30000 + number)]]))
        frontends += draw(st.sampled_from([[], [Frontend(Kind.LOAD_BALANCER, f"198.51.100.{number}", 80)]]))
        cluster = draw(st.sets(st.integers(1, 4)))
        made[name] = Entry(
            name, tuple(frontends), backends(cluster), backends(cluster & {1}),
            draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from([None, None, 30, 60])),
            draw(st.sampled_from([(), (IPv4Network("203.0.113.0/24"), IPv4Network("203.0.113.128/25"))])),
            draw(st.sampled_from(["", "rr", "lc", "sh"])),
        )  # fmt: skip
    return made


def fresh(wanted: dict[PortName, Entry]) -> Kernel:
    kernel, ledger = Kernel(), Ledger(Found())
    kernel.take(list(frame(PLACE)))
    for name, entry in wanted.items():
        ledger.want(name, render(entry, PLACE))
    kernel.carry_out(ledger, 0.0)
    return kernel


@settings(max_examples=60)
@given(st.lists(st.tuples(entries(), st.sampled_from([0.0, 0.5, LINGER]), st.booleans()), min_size=1, max_size=6))
def test_whatever_was_there_the_kernel_comes_to_have_what_is_wanted(
    steps: list[tuple[dict[PortName, Entry], float, bool]],
) -> None:
    kernel, now, before = Kernel(), 0.0, dict[PortName, Entry]()
    ledger = Ledger(Found())
    kernel.take(list(frame(PLACE)))
    for wanted, passed, restarted in steps:
        if restarted:
            ledger, before = Ledger(kernel.found()), {}
            kernel.take(list(frame(PLACE)))
        for name in before.keys() - wanted.keys():
            ledger.want(name, None)
        for name, entry in wanted.items():
            if before.get(name) != entry:
                ledger.want(name, render(entry, PLACE))
        kernel.carry_out(ledger, now)
        expected = fresh(wanted)
        lingering = {each for each in MAPS if each.startswith("backends")}
        for each in MAPS.keys() - lingering:
            assert kernel.maps[each] == expected.maps[each], "at once, and not later"
        for each in lingering:
            assert kernel.maps[each].items() >= expected.maps[each].items()
        before, now = wanted, now + passed
    now += LINGER
    kernel.carry_out(ledger, now)
    assert (kernel.chains, kernel.sets, kernel.maps) == (expected.chains, expected.sets, expected.maps)
    assert ledger.due(now) is None
    kernel.carry_out(ledger, now)  # nothing is left to do
    adopted = Ledger(kernel.found())
    for name, entry in before.items():
        adopted.want(name, render(entry, PLACE))
    assert list(adopted.batches(now)) == []


def test_a_large_change_is_several_transactions_and_a_small_one_is_small() -> None:
    crowd = backends(set(range(1, 11)))
    many = {
        name: Entry(name, (Frontend(Kind.CLUSTER_IP, f"10.96.{number >> 8}.{number & 255}", 80),), crowd, crowd[:1])
        for number in range(500)
        for name in [PortName("default", f"s{number}", "http", "TCP")]
    }
    ledger = Ledger(Found())
    for name, entry in many.items():
        ledger.want(name, render(entry, PLACE))
    sizes = []
    for batch in ledger.batches(0.0):
        sizes.append(batch.operations)
        ledger.done(batch)
    assert len(sizes) > 5
    assert max(sizes) <= MAX_OPERATIONS
    name, entry = next(iter(many.items()))
    ledger.want(name, render(Entry(name, entry.frontends, crowd[1:], ()), PLACE))
    (small,) = ledger.batches(0.0)
    assert small.operations < 30


@pytest.mark.parametrize("bridged", [(), (IPv4Network("10.0.1.0/24"),)])
@pytest.mark.parametrize("networks", [(), PLACE.networks])
def test_the_frame_is_the_same_however_often_it_is_made(
    networks: tuple[IPv4Network, ...], bridged: tuple[IPv4Network, ...]
) -> None:
    place = Place("n1", networks, frozenset(), None, bridged)
    kernel = Kernel()
    kernel.take(list(frame(place)))
    once = {name: list(rules) for name, rules in kernel.chains.items()}
    kernel.take(list(frame(place)))
    assert kernel.chains == once
    assert kernel.chains.keys() == set(FRAME)


def test_what_a_packet_may_still_look_up_stays_a_little() -> None:
    """It read that there are three backends before a change, and looks the third up after it."""
    name, kernel, ledger = PortName("default", "web", "", "TCP"), Kernel(), Ledger(Found())
    kernel.take(list(frame(PLACE)))

    def have(numbers: set[int], now: float) -> set[str]:
        entry = Entry(name, (Frontend(Kind.CLUSTER_IP, "10.96.0.1", 80),), backends(numbers))
        ledger.want(name, render(entry, PLACE))
        kernel.carry_out(ledger, now)
        return {key.rpartition(" ")[2] for key in kernel.maps["backends-tcp"]}

    assert have({1, 2, 3}, 0.0) == {"0", "1", "2"}
    assert have({1, 2}, 0.0) == {"0", "1", "2"}
    assert have({1, 2}, LINGER) == {"0", "1"}
