"""The firewalls of others: whatever they hold, ours come to rest beside it, and leave it as it was.

Each case: apply; apply again changes nothing, for this agent and for the next one; let others' tools repair nothing;
clean up, and all is byte for byte what it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from overlay.linux import netfilter
from overlay.node.firewall import Firewall, desired_rules, others
from tests.support.foreign_rules import DOCKER_26, DOCKER_28, FIREWALLD, IN_IPTABLES_TABLE, TABLE, Foreign
from tests.support.problems import shown
from tests.support.router import NETWORK, SUBNET, VARIANTS, Router, routing

pytestmark = pytest.mark.root

BOTH = desired_rules(NETWORK, SUBNET, ip_masq=True)

USED_BEFORE = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
COMMIT
"""

NATIVE = [
    Foreign(f"nft in iptables' table: {name}", DOCKER_28, nft=nft, passes=passes)
    for name, nft, passes in IN_IPTABLES_TABLE
]

SOME = ("an end", "the other iptables drops", "Docker 28", "Docker in the other", "flanneld", "both", "quota")
"""Of the cases, those for every variant and mode; with OVERLAY_ALL_FIREWALLS=1 it is all of them."""


def cases() -> Iterator[Any]:
    """Variant of iptables, whether the rules are nftables', what others have."""
    for variant, enable_nftables in product(VARIANTS, (False, True)):
        for foreign in (*TABLE, *(NATIVE if variant == "iptables-nft" else ())):
            usual = variant == "iptables-nft" and not enable_nftables
            if usual or os.environ.get("OVERLAY_ALL_FIREWALLS") == "1" or any(name in foreign.name for name in SOME):
                mode = "nftables" if enable_nftables else "iptables"
                yield pytest.param(variant, enable_nftables, foreign, id=f"{variant}-{mode}-{foreign.name}")


@pytest.fixture(scope="module", params=VARIANTS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    with routing(request.param, tmp_path_factory.mktemp("tools"), outside="flannel0") as router:
        yield router


@pytest.fixture
def router(shared: Router) -> Router:
    """A router without any rule."""
    shared.inside("router", "nft", "flush", "ruleset")
    for table in shared.inside("router", "cat", "/proc/net/ip_tables_names").split():
        empty = f"*{table}\n:PREROUTING ACCEPT\nCOMMIT\n" if table == "raw" else f"*{table}\n:OUTPUT ACCEPT\nCOMMIT\n"
        shared.inside("router", "iptables-legacy-restore", text=empty)
        if table == "filter":
            shared.inside("router", "iptables-legacy", "-P", "FORWARD", "ACCEPT")
    return shared


_COUNTERS = re.compile(r"\[\d+:\d+\]")


def everything(router: Router) -> str:
    """All rules of all tables as every tool prints them, with nft's handles: what is written again gets others."""
    texts = [router.inside("router", "nft", "-s", "-a", "list", "ruleset")]
    for variant in VARIANTS:
        # Where it cannot read a table it says so, and prints the others.
        texts.append(router.inside("router", "sh", "-c", f"{variant}-save 2>/dev/null || true"))
    lines = (line for text in texts for line in text.splitlines() if not line.startswith("#"))
    return _COUNTERS.sub("", "\n".join(lines))


def without_handles(text: str) -> str:
    return "\n".join(line.partition(" # handle")[0] for line in text.splitlines())


def put(router: Router, foreign: Foreign) -> None:
    """Legacy iptables' tables exist before, as where it was ever used: the kernel keeps them, once asked for."""
    other = next(variant for variant in VARIANTS if variant != router.variant)
    if router.variant == "iptables-legacy":
        router.restore(USED_BEFORE)
    for variant, text in ((router.variant, foreign.rules), (other, foreign.other)):
        if text:
            router.inside("router", f"{variant}-restore", "--noflush", text=text)
    if foreign.nft:
        router.inside(
            "router", "nft", "-f", "-", text=foreign.nft.replace("; add", "\nadd").replace("; insert", "\ninsert")
        )


@pytest.mark.parametrize(("shared", "enable_nftables", "foreign"), list(cases()), indirect=["shared"], scope="module")
def test_ours_come_to_rest_beside_others(router: Router, foreign: Foreign, enable_nftables: bool) -> None:
    put(router, foreign)
    before = everything(router)
    firewall = Firewall(enable_nftables=enable_nftables, tools=router.tools)
    firewall.reconcile(BOTH)
    applied = everything(router)
    for _ in range(2):
        assert firewall.reconcile(BOTH) == []
    assert Firewall(enable_nftables=enable_nftables, tools=router.tools).reconcile(BOTH) == []
    assert everything(router) == applied
    assert router.reaches() is foreign.passes
    firewall.remove()
    left = without_handles(everything(router))
    if foreign.ours:
        assert "10.77." not in left
        assert "FLANNEL" not in left
    else:
        assert left == without_handles(before)
    assert firewall.remove() == []


IN_OTHERS_TABLE = "add table ip filter; add chain ip filter OUTPUT { type filter hook output priority 0; }"
EMPTY_FORWARD = "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; }"


@pytest.mark.parametrize(
    ("before", "meanwhile", "stays"),
    [
        ("", "", ""),
        (IN_OTHERS_TABLE, "", ""),
        (EMPTY_FORWARD, "", ""),
        ("add table ip filter", "", ""),
        ("", "add rule ip filter FORWARD counter", "counter"),
        ("", "add chain ip filter theirs", "chain theirs"),
        ("", "chain ip filter FORWARD { policy drop; }", "policy drop"),
        ("", "add set ip nat theirs { type ipv4_addr; }", "set theirs"),
        ("", "add rule ip nat POSTROUTING counter", "counter"),
    ],
)
@pytest.mark.parametrize("shared", ["iptables-nft"], indirect=True, scope="module")
def test_what_iptables_makes_for_us_goes_with_us(router: Router, before: str, meanwhile: str, stays: str) -> None:
    """Its tables and the kernel's chains in them, where we needed them first, and unless others need them by now."""
    if before:
        router.inside("router", "nft", before)
    as_it_was = without_handles(everything(router))
    first, second = (Firewall(tools=router.tools, owner=device) for device in ("flannel0", "flannel1"))
    first.reconcile(BOTH)
    second.reconcile(BOTH)
    assert first.remove()
    assert second.reconcile(BOTH) == []
    if meanwhile:
        router.inside("router", "nft", meanwhile)
    second.remove()
    left = without_handles(everything(router))
    assert "FLANNEL" not in left
    if stays:
        assert stays in left
    else:
        assert left == as_it_was


@pytest.mark.parametrize("docker", [DOCKER_26, DOCKER_28], ids=["26", "28"])
def test_dockers_networks_stay_apart(router: Router, docker: str) -> None:
    """A container is no way into another network of the same Docker: only what comes out of the tunnel may enter."""
    router.restore(docker.replace("br-cd6108d8fb25", "flannel0").replace("br-67a3f87c2988", "flannel0"))
    router.iptables("-t", "raw", "-F")
    assert not router.reaches("container", "192.0.2.2")
    Firewall(tools=router.tools, owner="flannel1").reconcile(BOTH)
    assert not router.reaches("container", "192.0.2.2")


def test_a_docker_with_rules_in_nftables_gets_marks(router: Router) -> None:
    """As Docker 29 has them: it drops what comes to its bridge from elsewhere, unless it carries the mark."""
    router.inside(
        "router",
        "nft",
        "table ip docker-bridges { chain filter-FORWARD { type filter hook forward priority filter; policy accept; "
        'meta mark & 0x100000 == 0x100000 accept; oifname "d1" iifname != "d1" drop; }; }',
    )
    before = without_handles(everything(router))
    for enable_nftables in (False, True):
        firewall = Firewall(tools=router.tools, enable_nftables=enable_nftables)
        assert not router.reaches()
        firewall.reconcile(BOTH)
        assert router.reaches()
        assert firewall.reconcile(BOTH) == []
        assert Firewall(tools=router.tools, enable_nftables=enable_nftables).reconcile(BOTH) == []
        firewall.remove()
        assert "flannel-docker" not in everything(router)
        if enable_nftables:
            assert before.split("chain filter-FORWARD")[1].split("}")[0] in without_handles(everything(router))


SITE = "table inet site { chain c { type filter hook forward priority 0; policy %s; %s; }; }"


@pytest.mark.parametrize(
    ("text", "is_named"),
    [
        (FIREWALLD % "eth0", True),
        (FIREWALLD % "flannel0", False),
        (SITE % ("drop", ""), True),
        (SITE % ("drop", 'iifname "flannel0" accept; oifname "flannel0" accept'), False),
        (SITE % ("drop", "ip saddr 10.77.0.0/16 accept; ip daddr 10.77.0.0/16 accept"), False),
        (SITE % ("accept", "counter log reject"), True),
        (SITE % ("accept", "ip saddr 192.0.2.7 drop"), False),
        (SITE % ("accept", "counter"), False),
        (SITE.replace("forward", "input") % ("drop", ""), False),
        (SITE.replace("inet", "ip6") % ("drop", ""), False),
    ],
)
def test_what_others_refuse_is_said(router: Router, text: str, is_named: bool) -> None:
    """But not where they were told of us, and not what they refuse to somebody else."""
    router.inside("router", "nft", text)
    found = list(others.look(router.tools, NETWORK, "flannel0"))
    assert shown(found, "firewall-refuses") is is_named
    assert len(found) == is_named


def test_nothing_is_said_of_our_own(router: Router) -> None:
    Firewall(tools=router.tools, enable_nftables=True).reconcile(BOTH)
    Firewall(tools=router.tools, enable_nftables=True, owner="flannel1").reconcile(BOTH)
    router.restore(DOCKER_28)
    assert list(others.look(router.tools, NETWORK, "flannel0")) == []


@pytest.mark.parametrize("shared", ["iptables-nft"], indirect=True, scope="module")
def test_rules_that_no_tool_here_can_read_are_said(
    router: Router, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tmp_path / "ip_tables_names"
    monkeypatch.setattr(netfilter, "LEGACY_TABLES", names)
    alone = replace(router.tools, others=())
    for tables, tools, are_said in (
        ("filter\n", alone, True),
        ("filter\n", router.tools, False),
        ("nat\n", alone, False),
        ("", alone, False),
    ):
        names.write_text(tables)
        found = list(others.look(tools, NETWORK, "flannel0"))
        assert shown(found, "firewall-unread") is are_said
        assert len(found) == are_said
