"""The iptables renderer and its plans, on texts as iptables-save prints them. What the kernel makes of the plans is
tested in tests/netns/test_firewall.py."""

from __future__ import annotations

import shlex
from ipaddress import IPv4Network

import pytest

from overlay.node.firewall import EMPTY, Ruleset, desired_rules
from overlay.node.firewall.iptables import Plan, anchors, plan, refuses_forwarding, render
from overlay.node.firewall.model import Hook, Names
from overlay.node.firewall.saved import Saved

NETWORK = IPv4Network("10.0.0.0/16")
SUBNET = IPv4Network("10.0.58.0/24")
BOTH = desired_rules(NETWORK, SUBNET, ip_masq=True)
FORWARD_ONLY = desired_rules(NETWORK, SUBNET, ip_masq=False)

JUMP = '-m comment --comment "flanneld forward" -j FLANNEL-FWD'
ACCEPTS = (
    '-A FLANNEL-FWD -s 10.0.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT',
    '-A FLANNEL-FWD -d 10.0.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT',
)

GOLDEN_FILTER = f"""\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:FLANNEL-FWD - [0:0]
-A FORWARD {JUMP}
{ACCEPTS[0]}
{ACCEPTS[1]}
COMMIT
"""
"""As flanneld v0.20.2 left it; no newer flanneld has it otherwise."""

GOLDEN_NAT = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.0.58.0/24 -d 10.0.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.0.0.0/16 -d 10.0.58.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.0.0.0/16 -d 10.0.58.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.0.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.0.0.0/16 -d 10.0.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
"""
"""As a flanneld from v0.21 leaves it."""

V0_20_NAT = """\
*nat
:POSTROUTING ACCEPT [0:0]
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.0.0.0/16 -d 10.0.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.0.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.0.0.0/16 -d 10.0.58.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.0.0.0/16 -d 10.0.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
COMMIT
"""

DOCKER_20 = """\
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""

DOCKER_28 = """\
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
COMMIT
"""


def planned(ruleset: Ruleset, filter_table: str = "", nat: str = "", device: str = "flannel0") -> Plan:
    return plan(ruleset, {"filter": Saved.parse(filter_table), "nat": Saved.parse(nat)}, Names.of(device))


def table(*forward: str, policy: str = "ACCEPT", chains: str = "") -> str:
    """A filter table with our chain in it, these rules in FORWARD, and more lines."""
    declared = {"FLANNEL-FWD"} | {line.split()[1] for line in chains.splitlines()}
    return "\n".join(
        [
            "*filter",
            f":FORWARD {policy} [0:0]",
            *(f":{name} - [0:0]" for name in sorted(declared)),
            *(f"-A FORWARD {rule}" for rule in forward),
            *ACCEPTS,
            chains,
            "COMMIT",
        ]
    )


def after(script: str, before: list[str]) -> list[str]:
    """FORWARD after a script, as iptables-restore carries it out."""
    rules = [shlex.split(rule) for rule in before]
    for line in script.splitlines():
        match shlex.split(line):
            case ["-D", "FORWARD", *rule]:
                rules.remove(rule)
            case ["-I", "FORWARD", number, *rule]:
                rules.insert(int(number) - 1, rule)
            case ["-A", "FORWARD", *rule]:
                rules.append(rule)
    return ["JUMP" if rule[-1] == "FLANNEL-FWD" else shlex.join(rule) for rule in rules]


def test_what_a_flanneld_left_is_right_already() -> None:
    assert planned(BOTH, GOLDEN_FILTER, GOLDEN_NAT) == Plan()


def test_rules_are_rendered_in_flannels_order_and_as_iptables_save_prints_them() -> None:
    for hook, golden in ((Hook.FORWARD, GOLDEN_FILTER), (Hook.POSTROUTING, GOLDEN_NAT)):
        chain, anchor = BOTH.chain(hook), anchors(Names.of())[hook]
        assert chain is not None
        assert [render(rule, anchor.comment) for rule in chain.rules] == Saved.parse(golden).chain(anchor.chain)


def test_an_empty_machine_gets_chains_and_jumps_in_one_commit_a_table() -> None:
    done = planned(BOTH)
    assert done.script.count("COMMIT") == 2
    assert f"-A FORWARD {JUMP}\n" in done.script
    assert done.script.index(":FLANNEL-FWD") < done.script.index("-A FORWARD")
    assert len(done.changes) == 4


def test_rules_of_an_older_flanneld_are_replaced_without_touching_the_jump() -> None:
    done = planned(BOTH, GOLDEN_FILTER, V0_20_NAT)
    assert done.changes == ("iptables nat: FLANNEL-POSTRTG rewritten",)
    assert "POSTROUTING" not in done.script
    assert "*filter" not in done.script


def test_another_subnet_rewrites_only_the_masquerading_chain() -> None:
    moved = desired_rules(NETWORK, IPv4Network("10.0.9.0/24"), ip_masq=True)
    done = planned(moved, GOLDEN_FILTER, GOLDEN_NAT)
    assert done.changes == ("iptables nat: FLANNEL-POSTRTG rewritten",)
    assert "10.0.58.0" not in done.script


@pytest.mark.parametrize(
    ("wanted", "gone"), [(FORWARD_ONLY, ["nat"]), (BOTH.only(Hook.POSTROUTING), ["filter"]), (EMPTY, ["filter", "nat"])]
)
def test_what_is_not_wanted_any_more_goes_whoever_made_it(wanted: Ruleset, gone: list[str]) -> None:
    done = planned(wanted, GOLDEN_FILTER, GOLDEN_NAT)
    assert [line[1:] for line in done.script.splitlines() if line.startswith("*")] == gone
    assert done.script.count("-X FLANNEL-") == len(gone)
    assert "-A" not in done.script


def test_nothing_wanted_and_nothing_there_is_nothing_to_do() -> None:
    assert planned(EMPTY, DOCKER_28, "") == Plan()


def test_a_chain_that_anothers_rule_jumps_to_is_emptied_but_kept() -> None:
    done = planned(EMPTY, table("-i eth9 -j ufw-x", chains="-A ufw-x -j FLANNEL-FWD"))
    assert "-F FLANNEL-FWD" in done.script
    assert "-X" not in done.script


@pytest.mark.parametrize("forward", [[JUMP, JUMP], [JUMP, "-i eth9 -j DROP", JUMP, JUMP]])
def test_doubled_jumps_become_one(forward: list[str]) -> None:
    done = planned(FORWARD_ONLY, table(*forward))
    assert after(done.script, forward).count("JUMP") == 1


def test_rules_of_a_flanneld_without_own_chains_are_removed() -> None:
    old = '-s 10.0.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT'
    forward = [old, JUMP]
    assert after(planned(FORWARD_ONLY, table(*forward)).script, forward) == ["JUMP"]


D_USER, D_ISOLATION, D_FORWARD, D_OUT = (
    "-j DOCKER-USER",
    "-j DOCKER-ISOLATION-STAGE-1",
    "-j DOCKER-FORWARD",
    "-o x -j DOCKER",
)
OPERATOR = "-s 192.0.2.0/24 -j DROP"


@pytest.mark.parametrize(
    ("forward", "wanted"),
    [
        ([], ["JUMP"]),
        ([OPERATOR], [OPERATOR, "JUMP"]),
        ([D_USER, D_FORWARD], [D_USER, "JUMP", D_FORWARD]),
        ([JUMP, D_USER, D_FORWARD], [D_USER, "JUMP", D_FORWARD]),
        ([D_USER, D_FORWARD, JUMP], [D_USER, "JUMP", D_FORWARD]),
        ([D_USER, D_ISOLATION, D_OUT, JUMP], [D_USER, D_ISOLATION, "JUMP", D_OUT]),
        ([D_USER, JUMP, D_ISOLATION, D_OUT], [D_USER, D_ISOLATION, "JUMP", D_OUT]),
        ([OPERATOR, "-j REJECT --reject-with icmp-host-prohibited"], None),
        ([OPERATOR, "-m comment --comment 'the end' -j DROP"], None),
        ([OPERATOR, "-j the-end"], None),
        (["-j harmless", OPERATOR], ["-j harmless", OPERATOR, "JUMP"]),
    ],
)
def test_the_jump_goes_behind_the_guards_and_before_what_refuses(forward: list[str], wanted: list[str] | None) -> None:
    chains = "-A the-end -s 192.0.2.1/32 -j ACCEPT\n-A the-end -j really\n-A really -j DROP\n-A harmless -j RETURN"
    done = planned(FORWARD_ONLY, table(*forward, chains=chains))
    result = after(done.script, forward)
    assert result == (wanted or [OPERATOR, "JUMP", shlex.join(shlex.split(forward[-1]))])
    settled = [JUMP if rule == "JUMP" else rule for rule in result]
    assert planned(FORWARD_ONLY, table(*settled, chains=chains)) == Plan()


@pytest.mark.parametrize("rule", ["-j RETURN", "-m comment --comment 'to the policy' -j RETURN"])
def test_the_jump_goes_before_what_leads_to_a_policy_that_drops(rule: str) -> None:
    done = planned(FORWARD_ONLY, table(OPERATOR, rule, policy="DROP"))
    assert after(done.script, [OPERATOR, rule])[:2] == [OPERATOR, "JUMP"]
    assert planned(FORWARD_ONLY, table(OPERATOR, JUMP, rule, policy="DROP")) == Plan()
    assert planned(FORWARD_ONLY, table(OPERATOR, "-i eth9 -j RETURN", JUMP, policy="DROP")) == Plan()
    assert planned(FORWARD_ONLY, table(OPERATOR, rule, JUMP, policy="ACCEPT")) == Plan(), "which lets it pass"


@pytest.mark.parametrize(
    "forward",
    [
        [JUMP, OPERATOR],
        [OPERATOR, JUMP, "-j REJECT"],
        [D_USER, JUMP, OPERATOR, D_FORWARD],
        [D_USER, D_ISOLATION, JUMP, OPERATOR, D_OUT],
    ],
)
def test_a_jump_anywhere_it_works_is_left_where_it_is(forward: list[str]) -> None:
    assert planned(FORWARD_ONLY, table(*forward)) == Plan()


def test_strange_rules_of_others_are_no_obstacle() -> None:
    forward = [JUMP, '-m comment --comment "it\'s \\"quoted\\"" -j ACCEPT', "-m comment --comment 'unbalanced -j LOG"]
    assert planned(FORWARD_ONLY, table(*forward)) == Plan()


def test_a_deleted_rule_keeps_its_quotes() -> None:
    odd = '-m comment --comment "flanneld forward" -m comment --comment "say \\"no\\"" -j DROP'
    assert f"-D FORWARD {odd}\n" in planned(FORWARD_ONLY, table(odd, JUMP)).script


@pytest.mark.parametrize("device", ["flannel1", "fifteen-letters", 'a"\\!$äöü', "-j"])
def test_an_agent_with_another_device_has_names_that_fit_and_leaves_flannels_alone(device: str) -> None:
    names = Names.of(device)
    for name in (*names.chains.values(), names.table):
        assert len(name) <= 28
        assert name.replace("-", "").replace("_", "").isalnum()
    assert set(names.chains.values()).isdisjoint(Names.of().chains.values())
    assert planned(EMPTY, GOLDEN_FILTER, GOLDEN_NAT, device) == Plan()
    both = planned(BOTH, GOLDEN_FILTER, GOLDEN_NAT, device).script
    assert not [line for line in both.splitlines() if line.startswith(("-D", "-X", "-F", ":FLANNEL-POSTRTG "))]
    assert f":{names.chains[Hook.FORWARD]} - [0:0]" in both


def test_the_other_agents_jump_is_none_of_ours() -> None:
    theirs = '-m comment --comment "flanneld forward flannel1" -j FLANNEL-FWD-flannel1'
    assert planned(FORWARD_ONLY, table(theirs, JUMP)) == Plan()
    assert planned(FORWARD_ONLY, table(JUMP, theirs)) == Plan()


@pytest.mark.parametrize(
    ("text", "refuses"),
    [(DOCKER_20, True), (DOCKER_28, True), (table("-j REJECT"), True), (GOLDEN_FILTER, False), ("", False)],
)
def test_where_forwarding_is_refused(text: str, refuses: bool) -> None:
    assert refuses_forwarding(Saved.parse(text)) is refuses
    assert refuses_forwarding(Saved.parse(text.replace("FORWARD DROP", "FORWARD ACCEPT"))) is refuses


def test_a_loop_that_no_kernel_would_print_ends() -> None:
    assert not refuses_forwarding(Saved.parse(table("-j a", chains="-A a -j b\n-A b -j a")))
