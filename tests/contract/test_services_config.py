"""``overlay config services`` on the real etcd."""

from __future__ import annotations

import uuid

import pytest

from overlay.cli.main import run
from tests.support.etcd import Etcd

pytestmark = pytest.mark.etcd


def _command(server: Etcd, prefix: str, *arguments: str) -> list[str]:
    flags = ["--etcd-endpoints", ",".join(server.urls), "--services-prefix", prefix]
    return ["config", "services", arguments[0], *flags, *arguments[1:]]


def test_it_is_shown_with_its_defaults_and_set(server: Etcd, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = f"/services/{uuid.uuid4().hex}"
    assert run(_command(server, prefix, "show")) == 0
    assert capsys.readouterr().out == (
        '{"serviceCIDR":"10.96.0.0/12","nodePorts":"30000-32767","domain":"cluster.local"}\n'
    )
    assert run(_command(server, prefix, "set", '{"serviceCIDR": "10.100.0.0/16"}')) == 0
    assert capsys.readouterr().out == f"{prefix}/config: written\n"
    run(_command(server, prefix, "show"))
    assert '"serviceCIDR":"10.100.0.0/16"' in capsys.readouterr().out


def test_services_that_stay_outside_are_told(server: Etcd, capsys: pytest.CaptureFixture[str]) -> None:
    prefix = f"/services/{uuid.uuid4().hex}"
    server.ctl("put", f"{prefix}/addresses/10.96.3.4", "default/redis")
    assert run(_command(server, prefix, "set", '{"serviceCIDR": "10.100.0.0/16"}')) == 0
    assert "1 Services keep an address outside 10.100.0.0/16, such as 10.96.3.4" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{", '{"serviceCIDR": "10.0.0.1/8"}', '{"network": 1}'])
def test_what_breaks_a_rule_is_not_written(server: Etcd, capsys: pytest.CaptureFixture[str], text: str) -> None:
    prefix = f"/services/{uuid.uuid4().hex}"
    assert run(_command(server, prefix, "set", text)) == 1
    assert capsys.readouterr().err.startswith("overlay: ")
    assert server.ctl("get", "--prefix", prefix) == ""
