"""One catalogue for everything that is counted: programs, workers and agent, and what is said about them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from overlay.datapath import causes, counters
from overlay.datapath.counters import AGENT, CATALOGUE, Meaning
from overlay.datapath.kernel import maps
from overlay.datapath.kernel.datapath import KernelDatapath
from overlay.datapath.kernel.findings import causes_of, slow_path_counters
from overlay.datapath.kernel.underlays import Surroundings
from overlay.datapath.userspace.counters import COUNTER_NAMES
from overlay.datapath.userspace.datapath import UserspaceDatapath
from overlay.datapath.userspace.worker.admission import Verdict

SOURCE = (Path(maps.__file__).parent / "overlay.bpf.c").read_text()


def programs_counters() -> list[str]:
    """The names of ``enum counter`` in the C source, in its order."""
    body = re.search(r"enum counter \{(.*?)\n\};", SOURCE, re.DOTALL)
    assert body is not None
    *names, last = re.findall(r"^\t([A-Z_0-9]+),", body[1], re.MULTILINE)
    assert last == "COUNTERS"
    return [name.lower() for name in names]


def test_the_catalogue_has_what_the_programs_count_and_the_maps_read_it_in_their_order() -> None:
    assert tuple(programs_counters()) == maps.COUNTERS
    assert set(maps.COUNTERS) <= set(CATALOGUE)


def test_the_catalogue_has_what_the_workers_count() -> None:
    assert set(COUNTER_NAMES) <= set(CATALOGUE)


def test_nothing_is_in_the_catalogue_that_nobody_counts() -> None:
    assert set(CATALOGUE) == {*programs_counters(), *COUNTER_NAMES, *AGENT}
    assert not AGENT & {*programs_counters(), *COUNTER_NAMES}


async def test_what_a_status_has_is_in_the_catalogue() -> None:
    """Before anything was configured; every name that the agent adds is there but for what it finds on devices."""
    userspace = await UserspaceDatapath(workers=1).status()
    kernel = await KernelDatapath(UserspaceDatapath(workers=1)).status()
    added = {*userspace.counters, *kernel.counters, *slow_path_counters({}, {})}
    assert added <= AGENT
    assert AGENT - added <= {"drop_tun_queue", "drop_bridge_tx", "drop_gro_pair", "drop_fou_device"}


@pytest.mark.parametrize("counter", CATALOGUE.values(), ids=lambda counter: counter.name)
def test_each_says_what_it_counts(counter: counters.Counter) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z0-9]+)*", counter.name)
    assert counter.sentence[0].isupper()
    assert counter.sentence.endswith(".")
    assert not counter.phrase.endswith((".", " "))
    assert bool(counter.remedy) == (counter.meaning is not Meaning.USUAL), "what is a problem has a remedy"
    assert counter.name.startswith("drop_") or counter.meaning is not Meaning.LOSS
    assert counter.name.startswith("slow_") or counter.meaning is not Meaning.SLOW
    assert counter.name.endswith("_bytes") == (counter.unit is counters.Unit.BYTES)


def test_what_is_judged_and_told_is_in_the_catalogue() -> None:
    assert set(causes.USUAL) <= set(CATALOGUE)
    assert not set(causes.USUAL) & {*causes.LOSSES, *causes.SLOW}
    everything = Surroundings(ahead=("a on ingress of b", "a on egress of b"), bare=("c",), joining=("d",))
    assert set(causes_of(everything)) <= {*causes.LOSSES, *causes.SLOW}
    assert {verdict.value for verdict in Verdict if verdict is not Verdict.ADMIT} <= set(CATALOGUE)
