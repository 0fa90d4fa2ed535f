"""The agent's report: its members are what scripts read, and the command line reads what the agent wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from overlay.agent import report
from overlay.cli import status as command
from overlay.cli.main import run
from overlay.control.leases.state import Held
from overlay.control.plane import ControlState
from overlay.control.schema.lease import LeaseRecord
from overlay.datapath.base import DatapathStatus
from overlay.model import Lease, Peer, PeerTable
from overlay.node.interfaces import Underlay
from overlay.observe.status import Status, encode
from overlay.problem import Problem, Severity

OURS = Lease(IPv4Network("10.0.1.0/24"), IPv4Address("172.31.0.1"))
THEIRS = Lease(IPv4Network("10.0.1.0/24"), IPv4Address("172.31.0.9"), node_id="b")
HOSTILE = "node\n\x1b[2J\ud800"

MEMBERS = {
    "": {
        "version", "pid", "node_id", "uptime_seconds", "ready", "problems", "phase", "lease", "lost_lease", "underlay",
        "store", "datapath", "peers", "problem_details",
    },
    "lease": {"subnet", "reserved", "valid_for_seconds"},
    "lost_lease": {"subnet", "public_ip", "node_id"},
    "underlay": {"interface", "address", "public_ip", "mtu"},
    "store": {"connected", "endpoint", "silent_for_seconds", "skipped_keys"},
    "datapath": {"name", "reason", "running", "detail", "counters", "slow_path", "port", "notes"},
    "peers": {"subnet", "public_ip", "node_id", "path_mtu"},
    "problem_details": {"code", "severity", "about", "sentence", "remedy"},
}  # fmt: skip
"""Names that scripts know, by the member that they are in."""


def reported(**changed: Any) -> Status:
    problem = Problem("node", "flannel0: is busy", "trying again", about="flannel0", severity=Severity.DOWN)
    path_mtus = MappingProxyType({IPv4Address("172.31.0.2"): 1300})
    state = ControlState(last_contact=90.0, skipped=2)
    datapath = DatapathStatus("userspace", True, "1 of 1 workers", MappingProxyType({"tx_packets": 5}), path_mtus)
    peer = Peer(IPv4Network("10.0.2.0/24"), IPv4Address("172.31.0.2"), HOSTILE)
    fields: dict[str, Any] = {
        "version": "1",
        "pid": 7,
        "node_id": "a",
        "uptime_seconds": 61,
        "ready": True,
        "problems": (problem.text,),
        "phase": "held",
        "lease": report.lease(Held(OURS, "/key", 4, 5, 160.5), 100.0),
        "lost_lease": report.lost_lease(LeaseRecord(THEIRS, "/key", 4, 0)),
        "underlay": report.underlay(Underlay("eth0", 2, 1500, OURS.public_ip, OURS.public_ip)),
        "store": report.store(state, "http://127.0.0.1:2379", 100.5),
        "datapath": report.datapath(replace(datapath, reason="was asked for", port=8285)),
        "peers": tuple(report.peers(PeerTable.of(None, [peer]), path_mtus)),
        "problem_details": tuple(report.details([problem])),
    }
    return Status(**{**fields, **changed})


def test_members_are_what_scripts_know() -> None:
    written = json.loads(encode(reported()))
    assert set(written) == MEMBERS[""]
    for name, members in MEMBERS.items():
        if name:
            part = written[name][0] if isinstance(written[name], list) else written[name]
            assert set(part) == members, name
    assert written["lease"] == {"subnet": "10.0.1.0/24", "reserved": False, "valid_for_seconds": 60}
    assert written["store"]["silent_for_seconds"] == 10
    assert written["peers"] == [
        {"subnet": "10.0.2.0/24", "public_ip": "172.31.0.2", "node_id": HOSTILE, "path_mtu": 1300}
    ]
    assert written["problem_details"][0]["severity"] == "down"


def test_what_the_agent_wrote_is_what_the_command_line_reads() -> None:
    assert encode(command._understood(json.loads(encode(reported())))) == encode(reported())
    before = {name: member for name, member in json.loads(encode(reported())).items() if name != "problem_details"}
    assert command._understood(before).problem_details == (), "of an agent from before the upgrade"


@pytest.mark.parametrize(
    ("changed", "status"),
    [({"problems": ()}, 0), ({}, 1), ({"ready": False, "problems": ()}, 1)],
)
def test_the_exit_status_is_that_nothing_is_wrong(
    changed: dict[str, Any], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ask", lambda _: json.loads(encode(reported(**changed))))
    for arguments in ([], ["--json"], ["--peers"]):
        assert run(["status", f"--state-dir={Path.cwd()}", *arguments]) == status
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert ("flannel0: is busy; trying again" in shown) == (not changed or "problems" not in changed)


def test_a_report_that_reads_differently_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ask", lambda _: {"ready": True, "problems": []})
    assert run(["status"]) == 1
    assert capsys.readouterr().err.startswith("overlay: an agent of another version: its report reads differently: ")
    assert run(["status", "--json"]) == 0
