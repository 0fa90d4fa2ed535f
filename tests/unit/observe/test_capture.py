"""Tunnelled packets as text, built by scapy and read from files."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import GRE, Ether
from scapy.packet import Packet, Raw
from scapy.utils import wrpcap

from overlay.cli.capture import capture as command
from overlay.errors import FileError, InterfaceError, PrivilegeError, UsageError
from overlay.observe import capture
from overlay.observe.capture import Captured, Direction

INNER = IP(src="10.0.1.2", dst="10.0.2.2", ttl=62, flags="DF") / ICMP(type=8, id=7, seq=1) / Raw(b"x" * 56)


def tunnelled(*inner: Packet, dport: int = 8285) -> Packet:
    payload = b"".join(bytes(packet) for packet in inner)
    return IP(src="172.31.0.1", dst="172.31.0.2") / UDP(sport=8285, dport=dport) / Raw(payload)


def captured(packet: Packet, direction: Direction = Direction.OUT) -> Captured:
    return Captured(1_700_000_000.25, bytes(packet), direction)


def test_decode_shows_outer_and_inner() -> None:
    assert capture.decode(captured(tunnelled(INNER)))[2:] == [
        "inner  IP    10.0.1.2 → 10.0.2.2  ttl 62  length 84  don't fragment",
        "       ICMP  echo request  id 7  sequence 1",
    ]
    outer, udp, *_ = capture.decode(captured(tunnelled(INNER)))
    assert outer == "outer  IP    172.31.0.1 → 172.31.0.2  ttl 64  length 112"
    assert udp.startswith("       UDP   8285 → 8285  length 92  checksum 0x")


def test_summary_is_one_line() -> None:
    line = capture.summary(captured(tunnelled(INNER)))
    assert line.endswith("out 172.31.0.1 > 172.31.0.2 | 10.0.1.2 > 10.0.2.2 ttl 62 ICMP echo request  id 7  sequence 1")
    assert "\n" not in line


def test_segmented_by_offload_one_capture_holds_many_inner_packets() -> None:
    segment = IP(src="10.0.1.2", dst="10.0.2.2", ttl=62) / TCP(sport=1, dport=2, flags="A") / Raw(b"y" * 100)
    seen = captured(tunnelled(segment, segment, segment))
    assert seen.inner == (bytes(segment),) * 3
    assert capture.summary(seen).endswith("100 bytes, and 2 more (segmentation offload)")
    assert "2 more packets" in capture.decode(seen)[-1]


@pytest.mark.parametrize("length", range(20, 113))
def test_cut_short_anywhere_is_still_shown(length: int) -> None:
    seen = Captured(0.0, bytes(tunnelled(INNER))[:length])
    assert capture.summary(seen)
    assert capture.decode(seen)


@pytest.mark.parametrize("payload", [b"", b"\x45", b"\x60" + bytes(60), b"\x45\x00\x00\x05" + bytes(40), bytes(1400)])
def test_what_is_no_ip_packet_has_no_inner(payload: bytes) -> None:
    packet = IP(src="172.31.0.1", dst="172.31.0.2") / UDP(sport=8285, dport=8285) / Raw(payload)
    assert captured(packet).inner == ()
    assert "no inner packet" in capture.summary(captured(packet))


def test_file_of_ethernet_frames_is_read_and_others_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "frames.pcap"
    wrpcap(str(path), [Ether() / tunnelled(INNER), Ether() / INNER, Ether() / tunnelled(INNER, dport=53)])
    (seen,) = capture.read(path)
    assert seen.inner == (bytes(INNER),)
    assert seen.direction is Direction.UNKNOWN


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path, seen = tmp_path / "tunnel.pcap", captured(tunnelled(INNER))
    with capture.Writer(path) as writer:
        writer.write(seen)
        writer.write(seen)
    first, second = capture.read(path)
    assert (first.outer, second.outer) == (seen.outer, seen.outer)
    assert first.seconds == pytest.approx(seen.seconds, abs=1e-5)


@pytest.mark.parametrize("content", [None, b"", b"no capture at all, whatever its name says"])
def test_no_capture_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.pcap"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileError, match="capture file"):
        list(capture.read(path))


def test_unwritable_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot write"):
        capture.Writer(tmp_path / "missing" / "x.pcap")


class TestCommand:
    """``overlay capture`` on a file; live it is tried in tests/netns/test_lab.py."""

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(command, arguments)

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        path = tmp_path / "tunnel.pcap"
        wrpcap(str(path), [Ether() / tunnelled(INNER), Ether() / tunnelled(INNER)])
        return path

    def test_a_line_for_every_packet(self, file: Path) -> None:
        done = self.run("--read", str(file))
        assert done.exit_code == 0
        assert [line.split(" | ")[0].split(" ", 1)[1] for line in done.output.splitlines()] == [
            "-   172.31.0.1 > 172.31.0.2"
        ] * 2

    def test_count_and_every_layer(self, file: Path) -> None:
        lines = self.run("--read", str(file), "--count", "1", "-v").output.splitlines()
        assert [line.split()[0] for line in lines[1:]] == ["outer", "UDP", "inner", "ICMP"]

    def test_written_again(self, file: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy.pcap"
        assert self.run("--read", str(file), "--write", str(copy)).exit_code == 0
        assert [seen.outer for seen in capture.read(copy)] == [seen.outer for seen in capture.read(file)]

    @pytest.mark.parametrize("arguments", [[], ["--iface", "eth0", "--read", "x"]])
    def test_interface_or_file(self, arguments: list[str]) -> None:
        assert isinstance(self.run(*arguments).exception, UsageError)

    def test_no_such_interface(self) -> None:
        assert isinstance(self.run("--iface", "nosuch0").exception, InterfaceError | PrivilegeError)


INSIDE = {
    "GRE with a ping inside": (IP(src="10.0.1.2", dst="10.0.2.2") / GRE() / INNER, "GRE ", "echo request"),
    "IP in IP": (IP(src="10.0.1.2", dst="10.0.2.2") / INNER, "IPIP ", "echo request"),
    "an ICMP error that quotes TCP": (
        IP(src="10.0.1.2", dst="10.0.2.2") / ICMP(type=3, code=1) / IP(src="10.0.2.2") / TCP(dport=80),
        "ICMP dest unreach 1",
        "TCP",
    ),
    "a first fragment": (
        IP(src="10.0.1.2", dst="10.0.2.2", flags="MF") / UDP() / Raw(b"x" * 56),
        "the first fragment",
        "DF",
    ),
    "a later fragment": (IP(src="10.0.1.2", dst="10.0.2.2", frag=8, proto=17) / Raw(b"x"), "a later fragment", "first"),
}


@pytest.mark.parametrize("name", INSIDE)
def test_what_a_packet_carries_itself_is_named_and_not_what_that_carries(name: str) -> None:
    packet, shown, hidden = INSIDE[name]
    line = capture.summary(captured(tunnelled(packet)))
    assert shown in line
    assert hidden not in line
    assert any(shown.split()[0] in row for row in capture.decode(captured(tunnelled(packet))))


@pytest.mark.parametrize("port", [8285, 8472])
def test_icmp_about_the_tunnel_is_shown_and_other_icmp_is_not(port: int, tmp_path: Path) -> None:
    def error(dport: int) -> Packet:
        quoted = tunnelled(INNER, dport=dport)
        return IP(src="172.31.0.254", dst="172.31.0.1") / ICMP(type=3, code=4, nexthopmtu=1400) / IP(bytes(quoted)[:28])

    path = tmp_path / "frames.pcap"
    ping = IP(src="172.31.0.2", dst="172.31.0.1") / ICMP(type=8)
    wrpcap(str(path), [Ether() / error(port), Ether() / error(53), Ether() / ping])
    (seen,) = capture.read(path, port)
    assert "172.31.0.254 > 172.31.0.1 | ICMP dest unreach 4  MTU 1400  about 172.31.0.1" in capture.summary(seen)
    assert f"port {port}" in capture.decode(seen)[-1]
