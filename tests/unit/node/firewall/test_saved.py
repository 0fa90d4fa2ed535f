"""Tables of iptables as facts, in iptables' words and in nft's."""

from __future__ import annotations

import json

import pytest

from overlay.node.firewall import desired_rules
from overlay.node.firewall.iptables import Plan, plan
from overlay.node.firewall.model import Names
from overlay.node.firewall.saved import NATIVE, Saved
from tests.support.foreign_rules import DOCKER_28, FLANNEL_PLAIN, LIKE_FLANNELS
from tests.support.router import NETWORK, SUBNET

BOTH = desired_rules(NETWORK, SUBNET, ip_masq=True)
NAMES = Names.of()


def tables(text: str) -> dict[str, Saved]:
    return {"filter": Saved({}, {}), "nat": Saved({}, {}), **Saved.parse_all(text)}


def listing(*expressions: list[object]) -> str:
    """What nft prints of a FORWARD with these rules."""
    chain = {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "policy": "drop", "handle": 1}}
    rules = [{"rule": {"chain": "FORWARD", "handle": 2 + n, "expr": list(e)}} for n, e in enumerate(expressions)]
    return json.dumps({"nftables": [{"metainfo": {}}, {"table": {}}, chain, *rules]})


@pytest.mark.parametrize("line", ["-A FORWARD", "-A FORWARD ", ":FORWARD", ":FORWARD DROP", "-N x", "", "# x"])
def test_no_line_that_iptables_prints_is_an_error(line: str) -> None:
    saved = Saved.parse(f"*filter\n{line}\nCOMMIT\n")
    assert len(saved.chain("FORWARD")) == line.startswith("-A")
    assert Saved.parse_all(f"*filter\n{line}\nCOMMIT\n").keys() == {"filter"}


def test_what_nft_sees_of_a_rule() -> None:
    by_set = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@guests"}}
    through = {"match": {"op": "!=", "left": {"meta": {"key": "iifname"}}, "right": "eth0"}}
    counter: dict[str, object] = {"counter": {}}
    comment = {"xt": {"type": "match", "name": "comment"}}
    seen = Saved.from_nft(
        listing(
            [by_set, {"drop": None}],
            [comment, counter, {"jump": {"target": "OURS"}}],
            [through, counter, {"goto": {"target": "x"}}],
            [counter],
            [{"vmap": {}}],
            [{"xt": None}, {"xt": {"type": "target", "name": "REJECT"}}],
        ),
        {"OURS": "a comment"},
    )
    assert seen.policies == {"FORWARD": "DROP"}
    assert seen.chain("FORWARD") == [
        (NATIVE, "-j", "DROP"),
        ("-m", "comment", "--comment", "a comment", "-j", "OURS"),
        ("!", "-i", "eth0", "-g", "x"),
        (),
        (NATIVE,),
        (NATIVE, "-j", "REJECT"),
    ]
    assert seen.handles == {"FORWARD": (2, 3, 4, 5, 6, 7)}


def test_iptables_words_are_corrected_only_where_they_say_too_much() -> None:
    condition = {"match": {"op": "==", "left": {"payload": {}}, "right": "@guests"}}
    seen = Saved.from_nft(listing([condition, {"drop": None}], [condition, {"accept": None}]), {})
    printed = Saved.parse(":FORWARD DROP [0:0]\n-A FORWARD -j DROP\n-A FORWARD -s 192.0.2.1/32 -j ACCEPT\n")
    assert printed.corrected(seen).chain("FORWARD") == [(NATIVE, "-j", "DROP"), ("-s", "192.0.2.1/32", "-j", "ACCEPT")]


def test_dockers_isolation_is_passed_by_only_out_of_the_tunnel() -> None:
    done = plan(BOTH, tables(DOCKER_28), NAMES)
    inserted = [line for line in done.script.splitlines() if "FORWARD " in line and "-j FLANNEL" in line]
    jump = '-m comment --comment "flanneld forward" -j FLANNEL-FWD'
    assert inserted == [f"-I FORWARD 2 -i flannel0 {jump}", f"-A FORWARD {jump}"]


def test_an_older_flannels_rules_go_as_a_whole_or_not_at_all() -> None:
    deleted = [line for line in plan(BOTH, tables(FLANNEL_PLAIN), NAMES).script.splitlines() if line.startswith("-D")]
    assert len(deleted) == 6
    assert "-D" not in plan(BOTH, tables(LIKE_FLANNELS), NAMES).script
    assert plan(BOTH.only(), tables(LIKE_FLANNELS), NAMES) == Plan()


def test_a_rule_that_only_nft_can_name_is_deleted_by_handle() -> None:
    ours = [{"counter": {}}, {"jump": {"target": "FLANNEL-FWD"}}]
    seen = Saved.from_nft(listing([{"quota": {}}, {"drop": None}], ours, ours), {"FLANNEL-FWD": "flanneld forward"})
    done = plan(BOTH.only(), {"filter": seen}, NAMES)
    assert done.deletions == "delete rule ip filter FORWARD handle 3\ndelete rule ip filter FORWARD handle 4\n"
    assert done.script == ""
