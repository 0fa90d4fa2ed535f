"""What Kubernetes takes as names, labels and ports, and what becomes of the rest."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.services.pods.names import (
    Port,
    dns_label,
    is_dns_label,
    is_dns_subdomain,
    is_label_key,
    is_label_value,
    is_port_name,
    parse_ports,
    sort_out,
)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (is_dns_label, ["a", "web-1", "0", "a" * 63], ["", "-a", "a-", "A", "a.b", "a" * 64, "a_b", "a\n", "ü"]),
        (
            is_dns_subdomain,
            ["a", "a.b-c.d", ".".join(["a" * 63] * 3)],
            ["", ".", "a.", ".a", "a..b", "a." * 127 + "aa"],
        ),
        (
            is_label_key,
            ["app", "App.Kube_x-1", "example.com/app", "a" * 63, "com.docker.compose.project", "x/" + "a" * 63],
            ["", "/a", "a/", "a/b/c", "-a", "a b", "A.com/x", "a" * 64, "x/" + "a" * 64, "ü"],
        ),
        (is_label_value, ["", "x", "v1.2_3-4", "A" * 63], ["-", "a-", "a b", "a/b", "a" * 64, "ü", "\n"]),
        (is_port_name, ["http", "a", "9p", "a-b", "a" * 15], ["", "80", "-", "a--b", "a-", "HTTP", "a" * 16, "a_b"]),
    ],
)
def test_rules(check: object, good: list[str], bad: list[str]) -> None:
    assert callable(check)
    assert [each for each in good if not check(each)] == []
    assert [each for each in bad if check(each)] == []


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("web", "web"),
        ("Web_1", "web-1"),
        ("shop.db.1", "shop-db-1"),
        ("__x--y__", "x-y"),
        ("a" * 70, "a" * 63),
        ("a" * 62 + "_b", "a" * 62),
        ("___", ""),
        ("Ünïcode", "n-code"),
    ],
)
def test_the_nearest_dns_label(name: str, label: str) -> None:
    assert dns_label(name) == label


@given(st.text(max_size=100), st.integers(1, 63))
def test_what_is_made_of_a_name_is_a_dns_label_or_nothing(name: str, longest: int) -> None:
    made = dns_label(name, longest)
    assert made == "" or (is_dns_label(made) and len(made) <= longest)
    assert dns_label(made, longest) == made


def test_ports() -> None:
    ports, faults = parse_ports("http=80, dns=53/udp,9090,metrics=9100/TCP,,")
    assert ports == [Port(80, "TCP", "http"), Port(53, "UDP", "dns"), Port(9090), Port(9100, "TCP", "metrics")]
    assert faults == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http", "is no port"),
        ("http=", "is no port"),
        ("=80", "no port's name"),
        ("HTTP=80", "no port's name"),
        ("80=80", "no port's name"),
        ("http=0", "is no port"),
        ("http=65536", "is no port"),
        ("http=-1", "is no port"),
        ("http=" + "9" * 5000, "is no port"),
        ("http=٣", "is no port"),
        ("http=80/ICMP", "none of TCP, UDP, SCTP"),
        ("a=80,a=81", "named before"),
        ("a=80,b=80", "named before"),
    ],
)
def test_what_is_no_port_is_told_and_the_rest_is_taken(text: str, told: str) -> None:
    ports, faults = parse_ports(f"{text},good=1")
    assert len(faults) == 1
    assert told in faults[0]
    assert ports[-1] == Port(1, "TCP", "good")


@given(st.text(max_size=60))
def test_whatever_it_says_ports_are_ports(text: str) -> None:
    ports, _ = parse_ports(text)
    assert all(0 < port.number < 65536 and (not port.name or is_port_name(port.name)) for port in ports)
    assert len({(port.number, port.protocol) for port in ports}) == len(ports)


def test_labels_are_sorted_out() -> None:
    labels = {"app": "web", "com.docker.compose.config-hash": "0" * 64, "weird:key": "x", "dir": "/srv"}
    fit, unfit_value, unfit_key = sort_out(labels)
    assert fit == {"app": "web"}
    assert unfit_value == {"com.docker.compose.config-hash": "0" * 64, "dir": "/srv"}
    assert unfit_key == {"weird:key": "x"}
