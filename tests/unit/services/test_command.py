"""``overlay services``: its flags, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay.cli import agent, services
from overlay.cli.main import run
from overlay.services.machine import default_node_name, this_machine
from overlay.services.pods.names import is_dns_subdomain


def test_the_agent_does_not_take_its_neighbours_variables_for_its_own() -> None:
    """Both have one file of settings; what means something to one is no misspelling to the other."""
    own = {str(each.envvar) for each in agent.agent.params if each.envvar}
    others = {str(each.envvar) for each in services.services.params if each.envvar}
    assert all(each.startswith("OVERLAY_") for each in others - own)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--node-name", "Web 1"], "is no DNS name"),
        (["--node-name", "-"], "is no DNS name"),
        (["--services-healthz-ip", "x"], "is no IP address"),
        (["--services-lease-ttl", "1"], "--services-lease-ttl"),
        (["--etcd-endpoints", "ftp://x"], "scheme"),
        (["--publish-skydns", "--skydns-prefix", "skydns"], "has no slash at its beginning"),
        (["--publish-skydns", "--skydns-prefix", "/overlay/names/"], "has keys of --services-prefix /overlay"),
        (["--publish-skydns", "--skydns-prefix", "/"], "has keys of --services-prefix /overlay"),
        (["--status", "--state-dir", "/nowhere"], "no services runs"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["services", *arguments]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


@pytest.mark.parametrize(
    ("host", "name"),
    [("web1", "web1"), ("Web_1.Example.COM", "web-1.example.com"), ("", "node"), ("...", "node"), ("a" * 80, "a" * 63)],
)
def test_a_node_is_called_as_its_host(monkeypatch: pytest.MonkeyPatch, host: str, name: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert default_node_name() == name
    assert is_dns_subdomain(name)


def test_what_a_machine_says_of_itself() -> None:
    machine = this_machine("id")
    assert machine.identity == "id"
    assert machine.kernel in Path("/proc/version").read_text()
