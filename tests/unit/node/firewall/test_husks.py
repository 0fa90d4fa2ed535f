"""Which of iptables' chains and tables are ours to take away: as nft prints them."""

from __future__ import annotations

import pytest

from overlay.node.firewall.husks import BASES, chain_is_husk, making, table_is_husk

FILTER, NAT = BASES

MARK = 'comment "made by overlay"'
PLACE = "type filter hook forward priority filter; policy accept;"


def table(*lines: str, chain: str = "FORWARD") -> str:
    return "".join(f"{line}\n" for line in ("table ip filter {", f"\tchain {chain} {{", *lines, "\t}", "}"))


@pytest.mark.parametrize(
    ("there", "is_husk"),
    [
        (table(f"\t\t{MARK}", f"\t\t{PLACE}"), True),
        (table(f"\t\t{MARK}", f"\t\t{PLACE.replace('filter;', '0;')}"), True),
        (table(f"\t\t{PLACE}"), False),
        (table('\t\tcomment "site"', f"\t\t{PLACE}"), False),
        (table(f"\t\t{PLACE}", "\t\tcounter"), False),
        (table(f"\t\t{MARK}", f"\t\t{PLACE}", "\t\tcounter"), False),
        (table(f"\t\t{MARK}", f"\t\t{PLACE}", '\t\tcounter comment "made by overlay"'), False),
        (table(f"\t\t{MARK}", f"\t\t{PLACE.replace('accept', 'drop')}"), False),
        (table(f"\t\t{MARK}", f"\t\t{PLACE}", chain="INPUT"), False),
        ("table ip filter {\n}\n", False),
    ],
)
def test_which_chain_is_ours_to_remove(there: str, is_husk: bool) -> None:
    assert chain_is_husk(FILTER, there) is is_husk


@pytest.mark.parametrize(
    ("there", "is_husk"),
    [
        (f"table ip filter {{\n\t{MARK}\n}}\n", True),
        ("table ip filter {\n}\n", False),
        (f"table ip filter {{\n\t{MARK}\n\tchain site {{\n\t}}\n}}\n", False),
        (f"table ip nat {{\n\t{MARK}\n}}\n", False),
    ],
)
def test_which_table_is_ours_to_remove(there: str, is_husk: bool) -> None:
    assert table_is_husk(FILTER, there) is is_husk


def test_what_is_there_is_not_made_again() -> None:
    assert making(FILTER, table(f"\t\t{PLACE}")) == ""
    assert making(NAT, "table ip nat {\n}\n").startswith("add chain ip nat POSTROUTING { type nat hook postrouting ")
    assert making(NAT, None).startswith(f"add table ip nat {{ {MARK}; }}\nadd chain ip nat POSTROUTING ")
