"""What /proc/net/ip_vs says."""

from __future__ import annotations

from overlay.linux.ipvs import Server, Service, Virtual, listing

TEXT = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
FWM  00000001 wlc
  -> 0A000109:1F90      Route   1      0          0
TCP  0A600701:0050 rr persistent 10800 FFFFFFFF
  -> 0A000102:1F90      Masq    1      3          4
  -> 0A000103:1F90      Masq    0      0          0
UDP  0A600701:0050 lc ops
SCTP  AC1F0001:7580 sh
  -> 0A000102:1F90      Masq    1      0          0
TCP  [fd00:0000:0000:0000:0000:0000:0000:0001]:0050 rr
  -> [fd00:0000:0000:0000:0000:0000:0000:0002]:1F90      Masq    1      0          0
"""


def test_services_and_their_servers_are_read_and_those_of_marks_and_ipv6_are_not() -> None:
    pods = [("10.0.1.2", 8080), ("10.0.1.3", 8080)]
    assert listing(TEXT.splitlines()) == {
        Virtual("TCP", "10.96.7.1", 80): Service(
            "rr", 10800, False, dict(zip(pods, (Server(1, 7), Server(0, 0)), strict=True))
        ),
        Virtual("UDP", "10.96.7.1", 80): Service("lc", None, False),
        Virtual("SCTP", "172.31.0.1", 30080): Service("sh", None, False, {pods[0]: Server()}),
    }


def test_without_the_module_there_is_nothing() -> None:
    assert listing([]) == {}
