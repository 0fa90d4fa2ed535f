"""Whom to ask for the rest."""

from __future__ import annotations

import pytest

from overlay.services.dns.upstreams import choose, parse

OWN = "169.254.20.10"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nameserver 192.0.2.1\nnameserver 192.0.2.2\n", ("192.0.2.1", "192.0.2.2")),
        ("# nameserver 192.0.2.1\n;nameserver 192.0.2.3\nnameserver\t192.0.2.2 # ours\n", ("192.0.2.2",)),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.1\n", ("192.0.2.1",)),
        ("search a b\noptions ndots:5\nnameservers 192.0.2.1\n", ()),
        ("nameserver\nnameserver x\nnameserver 2001:db8::1\nnameserver fe80::1%eth0\n", ("2001:db8::1",)),
        ("", ()),
    ],
)
def test_resolv_conf(text: str, found: tuple[str, ...]) -> None:
    assert parse(text) == found


@pytest.mark.parametrize(
    ("listed", "behind", "chosen"),
    [
        (("192.0.2.1",), (), ("192.0.2.1",)),
        ((OWN, "192.0.2.1"), (), ("192.0.2.1",)),
        ((OWN,), (), ()),
        (("127.0.0.53",), ("192.0.2.1", "192.0.2.2"), ("192.0.2.1", "192.0.2.2")),
        (("127.0.0.53",), (OWN, "192.0.2.2"), ("192.0.2.2",)),
        (("127.0.0.53",), ("127.0.0.53",), ()),
        (("127.0.0.1",), (), ("127.0.0.1",)),
        (("0.0.0.0", "::"), (), ()),
        (("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"), (), ("192.0.2.1", "192.0.2.2", "192.0.2.3")),
    ],
)
def test_never_ourselves(listed: tuple[str, ...], behind: tuple[str, ...], chosen: tuple[str, ...]) -> None:
    assert choose(OWN, listed, behind) == chosen
