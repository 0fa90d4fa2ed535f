"""subnet.env byte by byte, and its atomic replacement."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from overlay.errors import FileError
from overlay.linux.files import read_object
from overlay.node.subnet_env import SubnetEnv, SubnetFile, previous_subnet, write
from tests.support.problems import shown

FLANNELD_UDP = """\
FLANNEL_NETWORK=10.0.0.0/16
FLANNEL_SUBNET=10.0.58.1/24
FLANNEL_MTU=1472
FLANNEL_IPMASQ=true
"""
"""What flanneld v0.20.2 wrote with ``-ip-masq``."""

UDP = SubnetEnv(IPv4Network("10.0.0.0/16"), IPv4Network("10.0.58.0/24"), 1472, ip_masq=True)


def test_same_bytes_as_flanneld() -> None:
    assert UDP.render() == FLANNELD_UDP


def test_dual_stack_has_flannels_order() -> None:
    content = SubnetEnv(
        IPv4Network("10.5.0.0/16"),
        IPv4Network("10.5.52.0/24"),
        1472,
        ip_masq=False,
        ipv6_network=IPv6Network("fd00:10:244::/56"),
        ipv6_subnet=IPv6Network("fd00:10:244:3::/64"),
    )
    assert content.render().splitlines() == [
        "FLANNEL_NETWORK=10.5.0.0/16",
        "FLANNEL_SUBNET=10.5.52.1/24",
        "FLANNEL_IPV6_NETWORK=fd00:10:244::/56",
        "FLANNEL_IPV6_SUBNET=fd00:10:244:3::1/64",
        "FLANNEL_MTU=1472",
        "FLANNEL_IPMASQ=false",
    ]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "flannel" / "subnet.env"
    before = os.umask(umask)
    try:
        assert write(path, UDP)
    finally:
        os.umask(before)
    assert path.read_text() == FLANNELD_UDP
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755


def test_replaced_as_a_whole_and_only_when_different(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    path.write_text("FLANNEL_SUBNET=10.0.1.1/24\n")
    old = path.open()
    assert write(path, UDP)
    assert old.read() == "FLANNEL_SUBNET=10.0.1.1/24\n", "a reader of the old file must see it whole"
    inode = path.stat().st_ino
    assert not write(path, UDP)
    assert path.stat().st_ino == inode
    assert [entry.name for entry in tmp_path.iterdir()] == ["subnet.env"], "no temporary file may stay"


def test_unwritable_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"cannot write .*/file/subnet\.env: .*; check the path") as caught:
        write(tmp_path / "file" / "subnet.env", UDP)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "subnet"),
    [
        (FLANNELD_UDP, "10.0.58.0/24"),
        ("FLANNEL_SUBNET= 10.0.58.1/24 \n", "10.0.58.0/24"),
        ("FLANNEL_SUBNET=rubbish\n", None),
        ("", None),
        ("FLANNEL_NETWORK=10.0.0.0/16\n", None),
    ],
)
def test_previous_subnet(tmp_path: Path, text: str, subnet: str | None) -> None:
    path = tmp_path / "subnet.env"
    path.write_text(text)
    assert previous_subnet(path) == (IPv4Network(subnet) if subnet else None)


def test_previous_subnet_survives_a_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    path.write_bytes(b"\xff\xfe\x00")
    assert previous_subnet(path) is None
    assert previous_subnet(tmp_path / "missing") is None


def test_what_a_link_names_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    link, target = tmp_path / "subnet.env", tmp_path / "elsewhere" / "flannel.env"
    link.symlink_to("elsewhere/flannel.env")
    assert write(link, UDP), "also where it does not exist yet"
    assert not write(link, UDP)
    assert link.is_symlink()
    assert target.read_text() == FLANNELD_UDP
    assert previous_subnet(link) == UDP.subnet


@pytest.mark.parametrize("kind", ["device", "pipe", "socket", "directory", "link to a device"])
def test_what_is_no_file_is_neither_replaced_nor_waited_for(tmp_path: Path, kind: str) -> None:
    """/dev/null in particular: the rest of the machine needs it as it is."""
    path = tmp_path / "subnet.env"
    match kind:
        case "device":
            path = Path("/dev/null")
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
        case "directory":
            path.mkdir()
        case "link to a device":
            path.symlink_to("/dev/zero")
    before = os.stat(path).st_mode
    with pytest.raises(FileError, match=r"cannot write .*: it is no regular file; check the path"):
        write(path, UDP)
    assert os.stat(path).st_mode == before
    assert previous_subnet(path) is None
    with pytest.raises(FileError, match="cannot be used"):
        read_object(path)


def other(subnet: str) -> SubnetEnv:
    return replace(UDP, subnet=IPv4Network(subnet))


def test_two_who_write_one_file_are_told_and_do_not_go_on_for_ever(tmp_path: Path) -> None:
    """Each change may restart Docker."""
    path = tmp_path / "subnet.env"
    ours, theirs = SubnetFile(path), SubnetFile(path)
    changes = 0
    for now in range(0, 600, 30):
        changes += ours.keep(UDP, now) + theirs.keep(other("10.9.5.0/24"), now + 15)
    assert changes <= 8
    problem = ours.problem()
    assert problem is not None
    assert shown([problem], "subnet-file", "had the subnet 10.9.5.0/24, which somebody else has written")
    assert theirs.problem() is not None
    for now in (1800, 3600):  # the other has gone
        ours.keep(UDP, now)
    assert previous_subnet(path) == UDP.subnet
    assert ours.problem() is None


def test_what_was_there_before_or_is_no_subnet_or_ours_is_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    write(path, other("10.9.5.0/24"))  # flanneld's, which we follow
    ours = SubnetFile(path)
    for now, spoil in enumerate(("leave", "remove", "write", "remove")):
        match spoil:
            case "remove":
                path.unlink()
            case "write":
                path.write_text("spoilt")
        assert ours.keep(UDP, now)
    assert ours.keep(other("10.0.7.0/24"), 9), "another lease"
    assert ours.problem() is None
