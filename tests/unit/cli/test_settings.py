"""``--settings``: the service's settings for any command. Against the real systemd: tests/system/test_systemd.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from overlay.cli.agent import agent
from overlay.cli.main import run
from overlay.cli.services import services
from overlay.cli.settings import effective, parse

SOURCE = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--datapath userspace", {"FLANNELD_DATAPATH": "userspace"}),
        ("-device=flan9 --ip-masq", {"FLANNELD_DEVICE": "flan9", "FLANNELD_IP_MASQ": "true"}),
        ("--state-dir  /run/nine\t-ip-masq=false", {"FLANNELD_STATE_DIR": "/run/nine", "FLANNELD_IP_MASQ": "false"}),
        ("--nonsense x", {}),
        ("", {}),
    ],
)
def test_flags_in_the_settings_are_variables(options: str, expected: dict[str, str]) -> None:
    assert effective({"OVERLAY_OPTIONS": options}, agent) == expected


def test_a_flag_wins_over_its_variable() -> None:
    assert effective({"FLANNELD_DEVICE": "a", "OVERLAY_OPTIONS": "--device=b"}, agent) == {"FLANNELD_DEVICE": "b"}


def test_every_line_of_the_example_does_what_it_says() -> None:
    """Those that are commented out as well."""
    lines = (SOURCE / "systemd/overlay.default").read_text().splitlines()
    written = [line.removeprefix("#") for line in lines if "=" in line.split(" ")[0]]
    variables = effective(parse("\n".join(written)), agent)
    assert variables["FLANNELD_DATAPATH"] == "userspace"
    known = {option.envvar for command in (agent, services) for option in command.params}
    assert set(variables) <= known


def test_what_is_set_is_taken_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("FLANNELD_")]:
        monkeypatch.delenv(name)
    settings = tmp_path / "settings"
    settings.write_text("FLANNELD_ETCD_ENDPOINTS=ftp://file\nOVERLAY_OPTIONS=--datapath userspace\n")
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert run(["--settings", str(settings), "leases"]) == 2
    assert "ftp://file" in capsys.readouterr().err
    monkeypatch.setattr(os, "environ", os.environ | {"FLANNELD_ETCD_ENDPOINTS": "ftp://environment"})
    assert run(["--settings", str(settings), "leases"]) == 2
    assert "ftp://environment" in capsys.readouterr().err


def test_settings_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--settings", str(tmp_path / "none"), "leases"]) == 2
    assert "none: cannot be read: No such file or directory" in capsys.readouterr().err
