"""The command line called wrongly: one line on standard error, and status 2; nothing is started."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from overlay.cli.main import run
from overlay.cli.tables import show, table
from overlay.lab.cluster import Lab
from overlay.lab.shell import overlay_command

UDP = '{"Network":"10.0.0.0/16","Backend":{"Type":"udp"}}'


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("agent", "--nonsense"), "No such option '--nonsense'"),
        (("agent", "-nonsense=1"), "No such option '--nonsense'"),
        (("agent", "--lease-ttl=soon"), "'soon' is not a valid integer"),
        (("agent", "--subnet-lease-renew-margin=1440"), "1440 is not in the range"),
        (("agent", "--iface-regex=("), "--iface-regex ("),
        (("agent", "--public-ip=300.1.1.1"), "--public-ip 300.1.1.1: is no IPv4 address"),
        (("agent", "--public-ipv6=10.0.0.1"), "--public-ipv6 10.0.0.1: is no IPv6 address"),
        (("agent", "--etcd-endpoints=ftp://x"), "neither http nor https"),
        (("agent", "--etcd-endpoints="), "endpoint"),
        (("agent", "--device=much-too-long-a-name"), "is no interface name"),
        (("agent", "--device=flannel%d"), "is no interface name"),
        (("agent", "--device=.."), "is no interface name"),
        (("agent", "--device=a b"), "is no interface name"),
        (("cleanup", "--device=x/../../y"), "is no interface name"),
        (("agent", "--device"), "overlay agent: Option '--device' requires an argument; see overlay agent --help"),
        (("agent", "--mtu=67"), "67 is not in the range"),
        (("agent", "--healthz-ip=localhost"), "--healthz-ip localhost: is no IP address"),
        (("agent", "--use-multi-cluster-cidr", "--public-ip=x"), "--public-ip x: is no IPv4 address"),
        (("agent", "--kube-subnet-mgr"), "there is no Kubernetes support"),
        (("agent", "--datapath=magic"), "'magic' is not one of"),
        (("agent", "surplus"), "surplus"),
        (("nothing",), "No such command 'nothing'"),
        (("leases", "--etcd-cafile=/nonexistent", "--etcd-endpoints=https://127.0.0.1:1"), "/nonexistent"),
        (("config", "check", "@/nonexistent"), "cannot read /nonexistent"),
        (("config", "check", "cfg.json"), "cfg.json: is no JSON object; to read a file: @cfg.json"),
        (("config", "set", "cfg.json"), "to read a file: @cfg.json"),
        (("reserve", "10.0.0.1/24", "--public-ip=1.2.3.4"), "has host bits set"),
        (("reserve", "10.0.0.0/24"), "--public-ip"),
    ],
)
def test_called_wrongly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], complaint: str
) -> None:
    for entry in ("overlay.cli.agent.run", "overlay.cli.cleanup.may_change_network"):
        monkeypatch.setattr(entry, lambda *_: pytest.fail("started"))
    assert run(list(arguments)) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "shown"),
    [
        (["-help"], 0, "Usage: overlay [OPTIONS]"),
        (["agent", "-help"], 0, "Usage: overlay agent [OPTIONS]"),
        (["config", "set", "-help"], 0, "Usage: overlay config set [OPTIONS]"),
        ([], 2, "Usage: overlay [OPTIONS]"),
        (["config"], 2, "Usage: overlay config [OPTIONS]"),
    ],
)
def test_help_is_printed_as_it_is(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, shown: str
) -> None:
    """Asked for, on standard output; in place of a command that is missing, on standard error."""
    assert run(arguments) == status
    printed = capsys.readouterr()
    text, silent = (printed.err, printed.out) if status else (printed.out, printed.err)
    assert text.startswith(shown)
    assert text.count("\n") > 5
    assert silent == ""


@pytest.mark.parametrize("length", [17, -1])
def test_a_config_that_breaks_a_rule_fails_the_check(capsys: pytest.CaptureFixture[str], length: int) -> None:
    assert run(["config", "check", f'{{"Network":"10.0.0.0/16","SubnetLen":{length}}}']) == 1
    error = capsys.readouterr().err
    assert f"SubnetLen = {length}" in error
    assert "must be at least 18" in error


@pytest.mark.parametrize(
    ("config", "warning"),
    [
        (UDP, ""),
        ('{"Network":"10.0.0.0/16","Backend":{"Type":"vxlan"}}', "Backend.Type 'vxlan'"),
        (
            '{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"udp"}}',
            "EnableIPv4 false",
        ),
    ],
)
def test_a_config_for_flanneld_alone_passes_with_a_warning(
    capsys: pytest.CaptureFixture[str], config: str, warning: str
) -> None:
    assert run(["config", "check", config]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)
    assert warning in printed.err
    assert bool(warning) == bool(printed.err)


def test_a_good_config_is_shown_with_its_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", '{"network":"10.3.0.0/16"}']) == 0
    shown = capsys.readouterr().out
    assert '"SubnetMin": "10.3.1.0"' in shown
    assert '"SubnetMax": "10.3.255.0"' in shown


@pytest.mark.parametrize("arguments", [["--version"], ["-version"], ["agent", "-version"]])
def test_version(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(arguments) == 0
    assert capsys.readouterr().out.startswith("overlay 0.")


def test_commands_take_the_agents_variables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("overlay.cli.cleanup.may_change_network", lambda: pytest.fail("started"))
    monkeypatch.setenv("FLANNELD_STATE_DIR", str(tmp_path / "second"))
    assert run(["status"]) == 1
    assert f"{tmp_path}/second: no agent runs" in capsys.readouterr().err
    monkeypatch.setenv("FLANNELD_DEVICE", "flannel%d")
    assert run(["cleanup"]) == 2
    assert "--device 'flannel%d'" in capsys.readouterr().err


def test_an_etcd_that_is_not_there_comes_with_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["leases", "--etcd-endpoints=http://127.0.0.1:1"]) == 1
    assert "connection refused; is etcd running there? check --etcd-endpoints" in capsys.readouterr().err


def test_tables_in_a_pipe_end_where_their_text_ends(capsys: pytest.CaptureFixture[str]) -> None:
    listed = table("SUBNET", "NODE")
    listed.add_row("10.0.58.0/24", "a")
    listed.add_row("10.0.59.0/24", "a-longer-one")
    show(listed)
    assert capsys.readouterr().out == ("SUBNET        NODE\n10.0.58.0/24  a\n10.0.59.0/24  a-longer-one\n")


def test_a_lab_is_checked_before_anything_is_built(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Lab, "up", lambda *_, **__: pytest.fail("built"))
    assert run(["lab", "up", f"--state={tmp_path}", '--config={"SubnetLen": 17}']) == 1
    assert "SubnetLen = 17" in capsys.readouterr().err


def test_a_command_in_a_lab_finds_overlay_as_it_is_under_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[Any] = []
    loaded = SimpleNamespace(machine=lambda _: SimpleNamespace(namespace="lab-n1"))
    monkeypatch.setattr(Lab, "load", lambda *_: loaded)
    monkeypatch.setattr(os, "execvpe", lambda *arguments: started.append(arguments))
    monkeypatch.setenv("PATH", "/usr/bin")
    run(["lab", "exec", f"--state={tmp_path}", "n1", "--", "overlay", "--version"])
    ((_, argv, environment),) = started
    assert argv[-2:] == ["overlay", "--version"]
    assert environment["PATH"].split(":") == [str(Path(overlay_command()).parent), "/usr/bin"]
