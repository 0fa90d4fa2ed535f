"""Ports of the bridge that has this node's subnet may give packets back, and no others; what was changed is undone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from overlay.linux.bridge import BridgePorts
from overlay.services.proxy import hairpin, place
from tests.support.machines import bridge, link
from tests.support.namespaces import Namespace, namespace

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SUBNETS = (IPv4Network("10.0.5.0/24"), IPv4Network("10.0.6.0/24"))
MACHINE = (
    "".join(map(link, ("one", "two", "back", "other")))
    + bridge("docker0", "10.0.5.1/24", ports=("one", "two", "back"))
    + bridge("br-other", "172.18.0.1/16", ports=("other",))
    + link("eth0", "10.0.6.9/32")
    + "link set back type bridge_slave hairpin on\n"
)


@pytest.fixture
def node() -> Iterator[Namespace]:
    with namespace("m") as made:
        made.batch(MACHINE)
        yield made


def hairpins() -> dict[str, bool]:
    with BridgePorts() as ports:
        return {port.name: port.hairpin for port in ports.ports()}


def test_ports_of_our_bridge_are_told_and_told_the_contrary(node: Namespace, tmp_path: Path) -> None:
    def allow() -> int:
        return hairpin.allow(place.look().bridges_of(SUBNETS), tmp_path)

    def remove() -> list[str]:
        return list(hairpin.remove(tmp_path))

    before = node.call(hairpins)
    assert before == {"one": False, "two": False, "back": True, "other": False}
    assert node.call(allow) == 2
    assert node.call(hairpins) == {**before, "one": True, "two": True}
    assert node.call(allow) == 0
    node.batch("link del two")
    node.batch(link("three") + "link set three master docker0")
    assert node.call(allow) == 1
    assert node.call(remove) == ["hairpin of bridge port one", "hairpin of bridge port three"]
    assert node.call(hairpins) == {"one": False, "back": True, "other": False, "three": False}
    assert node.call(remove) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("note", ["", "{", '[["a"]]', None])
def test_a_note_that_nobody_can_read_is_none(node: Namespace, tmp_path: Path, note: str | None) -> None:
    """Then what was set stays set; it is harmless."""
    if note is not None:
        (tmp_path / hairpin.FILE_NAME).write_text(note)
    assert node.call(lambda: list(hairpin.remove(tmp_path))) == []
    assert node.call(hairpins)["back"]
