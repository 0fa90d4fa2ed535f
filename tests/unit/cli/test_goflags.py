"""Flags in both of Go's spellings, and the environment."""

from __future__ import annotations

from typing import Any

import click
import pytest

from overlay.cli.goflags import GO_BOOL, Verbatim, flag, normalise


@click.command()
@flag("ip-masq", type=GO_BOOL, default=False)
@flag("iface", multiple=True, type=Verbatim())
@flag("public-ip", default="")
@flag("v", type=int, default=0)
def example(**values: Any) -> dict[str, Any]:
    return values


def parse(*arguments: str) -> dict[str, Any]:
    result = example.main(normalise(example, arguments), standalone_mode=False)
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize(
    "arguments",
    [
        ("-iface=eth0", "-public-ip=1.2.3.4"),
        ("--iface", "eth0", "--public-ip", "1.2.3.4"),
        ("-iface", "eth0", "--public-ip=1.2.3.4"),
    ],
)
def test_one_dash_or_two(arguments: tuple[str, ...]) -> None:
    values = parse(*arguments)
    assert values["iface"] == ("eth0",)
    assert values["public_ip"] == "1.2.3.4"


@pytest.mark.parametrize("spelling", ["-ip-masq", "--ip-masq", "-ip-masq=true", "--ip-masq=1", "-ip-masq=T"])
def test_booleans_that_are_true(spelling: str) -> None:
    assert parse(spelling, "-iface", "a")["ip_masq"] is True


@pytest.mark.parametrize("spelling", ["-ip-masq=false", "--ip-masq=0", "-ip-masq=F"])
def test_booleans_that_are_false(spelling: str) -> None:
    assert parse(spelling)["ip_masq"] is False


def test_repeated_flags_keep_their_order_and_values_may_look_like_flags() -> None:
    assert parse("-iface", "-x", "--iface=b", "-v", "5") == {
        "ip_masq": False,
        "iface": ("-x", "b"),
        "public_ip": "",
        "v": 5,
    }


def test_environment_and_that_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLANNELD_IP_MASQ", "true")
    monkeypatch.setenv("FLANNELD_IFACE", "a b")
    monkeypatch.setenv("FLANNELD_PUBLIC_IP", "1.1.1.1")
    values = parse("-public-ip", "2.2.2.2")
    assert values == {"ip_masq": True, "iface": ("a b",), "public_ip": "2.2.2.2", "v": 0}


@pytest.mark.parametrize(
    ("argument", "message"),
    [("-nonsense", "--nonsense"), ("--ifac=x", "--ifac"), ("-ip-masq=maybe", "neither true nor false")],
)
def test_wrong_flags_are_named_whole(argument: str, message: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        parse(argument)
    assert message in caught.value.format_message()
