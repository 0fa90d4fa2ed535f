"""The command line called wrongly: one line on standard error, and status 2; nothing is started."""

from __future__ import annotations

import pytest

from overlay.cli.main import run


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
        (("agent", "--kube-subnet-mgr"), "there is no Kubernetes support"),
        (("agent", "--datapath=magic"), "'magic' is not one of"),
        (("agent", "surplus"), "surplus"),
        (("nothing",), "No such command 'nothing'"),
        (("leases", "--etcd-cafile=/nonexistent", "--etcd-endpoints=https://127.0.0.1:1"), "/nonexistent"),
        (("config", "check", "@/nonexistent"), "cannot read /nonexistent"),
        (("reserve", "10.0.0.1/24", "--public-ip=1.2.3.4"), "has host bits set"),
        (("reserve", "10.0.0.0/24"), "--public-ip"),
    ],
)
def test_called_wrongly(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], complaint: str) -> None:
    assert run(list(arguments)) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_a_config_that_breaks_a_rule_fails_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", '{"Network":"10.0.0.0/16","SubnetLen":17}']) == 1
    assert "SubnetLen = 17" in capsys.readouterr().err


def test_a_good_config_is_shown_with_its_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", '{"network":"10.3.0.0/16"}']) == 0
    shown = capsys.readouterr().out
    assert '"SubnetMin": "10.3.1.0"' in shown
    assert '"SubnetMax": "10.3.255.0"' in shown


@pytest.mark.parametrize("arguments", [["--version"], ["agent", "-version"]])
def test_version(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(arguments) == 0
    assert capsys.readouterr().out.startswith("overlay 0.")
