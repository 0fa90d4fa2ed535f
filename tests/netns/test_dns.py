"""Names on a real node: real resolvers ask, a real etcd knows, and upstreams do what they should not.

One site for all tests here (``tests/support/dns_site.py`` draws it); what a test needs of its own it makes and removes.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overlay.services.dns import place
from tests.support.dns_site import ADDRESS, HOST, LIMIT, STRANGER, UPSTREAM, UPSTREAM_TOO, DnsSite, dns_site, until
from tests.support.labs import need_programs
from tests.support.namespaces import namespace
from tests.support.problems import shown
from tests.support.upstream_server import ADDRESS as OUTSIDE

pytestmark = [pytest.mark.root, pytest.mark.etcd]

MUSL_PROGRAM = Path(__file__).parents[1] / "support" / "resolve.c"

NAMES_OF_REDIS = ["redis", "redis.default", "redis.default.svc", "redis.default.svc.cluster.local"]

PORTS = [{"name": "http", "port": 80, "targetPort": 80}]


@pytest.fixture(scope="module")
def site() -> Iterator[DnsSite]:
    """With the Services of the session: one with an address, one headless with three pods."""
    need_programs("dig", "busybox", "etcd", "etcdctl", "nft", "nsenter")
    with dns_site() as site:
        site.put("redis", selector={"app": "redis"}, clusterIP="10.97.218.31", clusterIPs=["10.97.218.31"],
                 ports=[{"name": "redis", "port": 6379}])  # fmt: skip
        site.put("myapp-svc", selector={"app": "myapp"}, clusterIP="None", ports=PORTS)
        site.put("outside", type="ExternalName", externalName="ok.example")
        for number, address in enumerate(("10.0.5.2", "10.0.5.3", "10.0.5.4")):
            hostname = {"hostname": "first", "subdomain": "myapp-svc"} if number == 0 else {}
            site.put_pod(f"myapp-{number}", address, "myapp", **hostname)
        site.start_services("--publish-skydns")
        until(lambda: len(site.short("myapp-svc.default.svc.cluster.local")) == 3, "three pods")
        yield site


# --- the cluster's names ---------------------------------------------------------------------------------------------


def test_the_dig_of_the_session(site: DnsSite) -> None:
    told = site.dig("-t", "A", "myapp-svc.default.svc.cluster.local.")
    assert re.search(r"flags: qr aa rd ra; QUERY: 1, ANSWER: 3", told)
    answers = re.findall(r"^myapp-svc\.default\.svc\.cluster\.local\.\s+5\s+IN\s+A\s+(\S+)$", told, re.M)
    assert sorted(answers) == ["10.0.5.2", "10.0.5.3", "10.0.5.4"]


@pytest.mark.parametrize("name", NAMES_OF_REDIS)
def test_resolvers_agree(site: DnsSite, name: str) -> None:
    """glibc's (getent, Python), busybox's own, and dig with a search list."""
    python = "import socket, sys; print({each[4][0] for each in socket.getaddrinfo(sys.argv[1], 6379)})"
    assert site.pod.run(*site.resolving("getent", "ahostsv4", name)).split()[0] == "10.97.218.31"
    assert "10.97.218.31" in site.pod.run(*site.resolving(sys.executable, "-c", python, name))
    assert "10.97.218.31" in site.pod.run(*site.resolving("dig", "+search", "+short", name))
    # busybox's nslookup knows the search list, but not ndots.
    assert (
        "10.97.218.31" in site.pod.attempt(*site.resolving("busybox", "nslookup", "-type=a", name)).stdout
        or "." in name
    )


@pytest.fixture(scope="module")
def musl(site: DnsSite) -> str:
    """A program that resolves as musl does, what containers of Alpine are linked with."""
    need_programs("musl-gcc")
    made = site.folder / "resolve"
    subprocess.run(["musl-gcc", "-static", "-o", str(made), str(MUSL_PROGRAM)], check=True)
    return str(made)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, ["10.97.218.31"]) for name in NAMES_OF_REDIS),
        ("myapp-svc", ["10.0.5.2", "10.0.5.3", "10.0.5.4"]),
        ("first.myapp-svc", ["10.0.5.2"]),
        ("outside", [OUTSIDE]),
        ("ok.example", [OUTSIDE]),
        ("nothing.default.svc.cluster.local", ["no such name"]),
    ],
)
def test_musl_agrees(site: DnsSite, musl: str, name: str, expected: list[str]) -> None:
    """It asks for A and AAAA at once from one socket, and gives up a search where one answer is a failure."""
    assert sorted(site.pod.attempt(*site.resolving(musl, name)).stdout.splitlines()) == expected


def test_what_is_answered_is_in_etcd_for_a_coredns(site: DnsSite) -> None:
    base = "/skydns/local/cluster/svc/default"
    until(lambda: len(site.keys(f"{base}/myapp-svc/")) == 6, "three endpoints and their ports")
    assert site.keys(f"{base}/redis/") == [f"{base}/redis/10-97-218-31", f"{base}/redis/_tcp/_redis/10-97-218-31"]
    assert f"{base}/myapp-svc/first" in site.keys(f"{base}/myapp-svc/")
    report = site.report()
    assert report is not None
    assert report["skydns"]["writer"] == "n1"
    site.put("brief", clusterIP="10.97.0.9", clusterIPs=["10.97.0.9"], ports=PORTS)
    until(lambda: site.keys(f"{base}/brief/"), "the new Service's records")
    site.delete("brief")
    until(lambda: not site.keys(f"{base}/brief/"), "they go with it")


def test_records_of_every_kind_come_over_the_wire(site: DnsSite) -> None:
    def short(*arguments: str) -> list[str]:
        return site.short(*arguments)

    base = "myapp-svc.default.svc.cluster.local"
    assert short("first." + base) == ["10.0.5.2"]
    assert short("10-0-5-3." + base) == ["10.0.5.3"]
    assert short("SRV", "_http._tcp." + base) == sorted(
        f"0 33 80 {label}.{base}." for label in ("first", "10-0-5-3", "10-0-5-4")
    )
    assert short("-x", "10.97.218.31") == ["redis.default.svc.cluster.local."]
    assert short("-x", "10.0.5.2") == [f"first.{base}."]
    assert short("TXT", "dns-version.cluster.local") == ['"1.1.0"']
    assert short("10-9-8-7.default.pod.cluster.local") == ["10.9.8.7"]
    assert short("outside.default.svc.cluster.local") == sorted([OUTSIDE, "ok.example."])
    for name, code in (("default.svc.cluster.local", "NOERROR"), ("nothing.default.svc.cluster.local", "NXDOMAIN")):
        told = site.dig(name)
        assert f"status: {code}" in told
        assert "hostmaster.cluster.local." in told


def test_tcp_answers_as_udp_does(site: DnsSite) -> None:
    for name in ("redis.default.svc.cluster.local", "nothing.cluster.local", "ok.example"):
        by_udp, by_tcp = (site.dig("+noall", "+answer", "+authority", how, name) for how in ("+notcp", "+tcp"))
        assert [line.split()[-1] for line in by_udp.splitlines()] == [line.split()[-1] for line in by_tcp.splitlines()]


def test_what_is_too_long_is_cut_off_and_comes_by_tcp(site: DnsSite, musl: str) -> None:
    for number in range(60):
        site.put_pod(f"many-{number}", f"10.0.5.{100 + number}", "many")
    site.put("many", selector={"app": "many"}, clusterIP="None", ports=PORTS)
    name = "many.default.svc.cluster.local"
    try:
        until(lambda: len(site.short(name)) == 60, "sixty pods")
        assert "flags: qr aa tc rd" in site.dig("+noedns", "+ignore", name)
        assert "flags: qr aa rd" in site.dig("+ignore", name)
        assert "flags: qr aa tc rd" in site.dig("+ignore", "SRV", name)
        assert "Truncated, retrying in TCP mode" in site.dig("+noedns", name)
        # musl before 1.2.4 never asks by TCP: as many as 512 bytes hold
        found = site.pod.attempt(*site.resolving(musl, "many")).stdout.splitlines()
        assert len(found) >= 25
        assert set(found) <= {f"10.0.5.{100 + number}" for number in range(60)}
    finally:
        site.delete("many")
        for number in range(60):
            site.remove_pod(f"many-{number}")


def test_a_change_is_answered_at_once_and_only_it(site: DnsSite) -> None:
    name = "changing.default.svc.cluster.local"
    assert "NXDOMAIN" in site.dig(name)
    for address in ("10.96.7.1", "10.96.7.2"):
        site.put("changing", clusterIP=address, clusterIPs=[address], ports=PORTS)
        until(lambda address=address: site.short(name) == [address], "its address")  # type: ignore[misc]
        assert site.short("-x", address) == [name + "."]
    site.delete("changing")
    until(lambda: "NXDOMAIN" in site.dig(name), "its end")
    assert "NXDOMAIN" in site.dig("-x", "10.96.7.2")
    site.put_pod("late", "10.0.5.9", "myapp")
    until(lambda: "10.0.5.9" in site.short("myapp-svc.default.svc.cluster.local"), "the new pod")
    site.remove_pod("late")
    until(lambda: "10.0.5.9" not in site.short("myapp-svc.default.svc.cluster.local"), "its end")


def test_pods_take_turns_at_being_first(site: DnsSite) -> None:
    first = set()

    def all_were_first() -> bool:
        first.add(site.dig("+short", "myapp-svc.default.svc.cluster.local").split()[0])
        return len(first) == 3

    until(all_were_first, "each pod first")


def test_an_answer_is_explained(site: DnsSite) -> None:
    command = (sys.executable, "-m", "overlay", "dns", "query", "--etcd-endpoints", "http://127.0.0.1:2379")
    told = site.host.run(*command, "redis.default")
    assert told.splitlines() == [
        "redis.default.default.svc.cluster.local. A   (search default.svc.cluster.local)",
        "    NXDOMAIN",
        "    no Service default/default",
        "redis.default.svc.cluster.local. A   (search svc.cluster.local)",
        "    redis.default.svc.cluster.local. 5 IN A 10.97.218.31",
        "    Service default/redis, its ClusterIP 10.97.218.31   [/overlay/objects/services/default/redis]",
    ]
    assert "of Service default/redis" in site.host.run(*command, "10.97.218.31")
    assert site.host.attempt(*command, "nothing.default.svc.cluster.local.").returncode == 1


# --- everything else -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ok.example", "203.0.113.7"),
        ("lying.example", "203.0.113.7"),
        ("garbage.example", "203.0.113.7"),
        ("slow.example", "203.0.113.7"),
        ("alias.example", "203.0.113.7"),
        ("gone.example", "status: NXDOMAIN"),
        ("empty.example", "status: NOERROR"),
        ("failing.example", "status: SERVFAIL"),
        ("big.example", "203.0.113.100"),
        ("dead.example", "status: SERVFAIL"),
    ],
)
def test_upstreams_are_asked_whatever_they_do(site: DnsSite, name: str, told: str) -> None:
    answer = site.dig("+time=10", name)
    assert told in answer
    assert "6.6.6.6" not in answer
    assert "flags: qr rd ra" in answer


def test_what_upstreams_said_is_remembered(site: DnsSite) -> None:
    for name in ("ok-kept.example", "gone-kept.example"):
        for _ in range(3):
            site.dig(name)
        assert [each for each in site.asked() if each.startswith(name)] == [f"{name}. A udp"]


def test_a_lie_about_our_names_is_not_remembered(site: DnsSite) -> None:
    site.dig("lying.example")
    assert site.short("redis.default.svc.cluster.local") == ["10.97.218.31"]


def test_search_lists_cost_upstreams_nothing(site: DnsSite) -> None:
    """``ndots:5`` makes four questions of one name; three of them are about the cluster, and answered here."""
    assert site.pod.run(*site.resolving("getent", "ahostsv4", "ok-searched.example")).split()[0] == OUTSIDE
    assert not [each for each in site.asked() if "cluster.local" in each]
    assert {each.split()[0] for each in site.asked() if "searched" in each} == {"ok-searched.example."}


def test_upstreams_gone_what_they_said_is_answered_still(site: DnsSite) -> None:
    assert site.short("short.example") == [OUTSIDE]
    site.stop("upstream")
    try:
        until(lambda: re.search(r"short\.example\.\s+30\s", site.dig("+time=10", "short.example")), "an old answer")
        for _ in range(3):  # upstreams are not asked again for each; by TCP, as nothing encoded is kept of that
            assert site.short("+tcp", "short.example") == [OUTSIDE]
        assert "SERVFAIL" in site.dig("+time=10", "ok-never.example")
        assert site.short("redis.default.svc.cluster.local") == ["10.97.218.31"]
        until(lambda: shown(site.report() or {}, "dns-upstreams", UPSTREAM), "a problem that says so")
    finally:
        site.start_upstream()
    until(lambda: site.short("ok-again.example") == [OUTSIDE], "answers again")


def test_the_next_upstream_is_asked(site: DnsSite) -> None:
    site.stop("upstream")
    site.start_upstream("second", UPSTREAM_TOO)
    try:
        until(lambda: site.short("ok-second.example") == [OUTSIDE], "the second's answer")
        assert any(each.startswith("ok-second") for each in site.asked("second"))
    finally:
        site.stop("second")
        site.start_upstream()
        until(lambda: site.short("ok-first-again.example") == [OUTSIDE], "answers again")


# --- who asks --------------------------------------------------------------------------------------------------------


def test_strangers_are_not_answered(site: DnsSite) -> None:
    before = site.report()
    assert before is not None
    assert "no servers could be reached" in site.dig("+time=1", "redis.default.svc.cluster.local", where=site.stranger)
    assert "no servers could be reached" in site.dig(
        "+time=1", "+tcp", "redis.default.svc.cluster.local", where=site.stranger
    ) or not site.short("+time=1", "+tcp", "redis.default.svc.cluster.local", where=site.stranger)
    after = site.report()
    assert after is not None
    assert after["dns"]["counters"]["strangers"] > before["dns"]["counters"]["strangers"]
    assert site.short("redis.default.svc.cluster.local", where=site.host) == ["10.97.218.31"]


def test_a_stranger_with_a_pods_address_makes_us_answer_nobody(site: DnsSite) -> None:
    """The forged question does not reach the server: its source is not behind the device that it came by."""
    site.stranger.batch("addr add 10.0.5.3/32 dev lan\n")
    before = (site.report() or {})["dns"]["counters"]["asked"]
    try:
        site.stranger.attempt("dig", "-b", "10.0.5.3", f"@{ADDRESS}", "+tries=2", "+time=1", "redis.cluster.local")
    finally:
        site.stranger.batch("addr del 10.0.5.3/32 dev lan\n")
    assert (site.report() or {})["dns"]["counters"]["asked"] == before


def test_behind_which_bridges_containers_are() -> None:
    """One that leads out of the host, by a port that is no container's, has strangers behind it."""
    with namespace() as host:
        for bridge, number in (("inward", 1), ("empty", 2), ("outward", 3)):
            host.batch(f"link add {bridge} type bridge\naddr add 10.9.{number}.1/24 dev {bridge}\n")
        host.batch("link add pod1 type veth peer name eth1\nlink set pod1 master inward\n")
        host.batch("link add pod2 type veth peer name eth2\nlink set pod2 master outward\n")
        host.batch("link add tunnel type vxlan id 5 dstport 4789\nlink set tunnel master outward\n")
        host.batch("addr add 192.0.2.1/24 dev eth1\n")
        found = host.call(lambda: place.clients([IPv4Network("10.0.5.0/24")]))
    assert set(found) == {
        "127.0.0.0/8", "127.0.0.1/32", "10.0.5.0/24", "10.9.1.0/24", "10.9.1.1/32", "10.9.2.0/24", "10.9.2.1/32",
        "10.9.3.1/32", "192.0.2.1/32",
    }  # fmt: skip


def test_questions_are_not_tracked(site: DnsSite) -> None:
    rules = site.host.run("nft", "list", "table", "ip", "overlay-dns")
    assert rules.count("notrack") == 3
    site.host.run("nft", "delete", "table", "ip", "overlay-dns")
    site.host.batch("link set overlay-dns down\n")  # tells; what is missing is put back
    until(lambda: site.host.attempt("nft", "list", "table", "ip", "overlay-dns").returncode == 0, "the rules again")
    until(lambda: site.short("redis.default.svc.cluster.local") == ["10.97.218.31"], "the device is up again")


# --- faults ----------------------------------------------------------------------------------------------------------


def test_the_worker_killed_names_resolve_again(site: DnsSite) -> None:
    (pid,) = site.workers()
    os.kill(pid, signal.SIGKILL)
    started = time.monotonic()
    until(lambda: site.short("+time=1", "redis.default.svc.cluster.local") == ["10.97.218.31"], "an answer", 30.0)
    print(f"answered {time.monotonic() - started:.2f} s after the worker was killed")
    assert site.workers() != [pid]
    assert sorted(site.short("myapp-svc.default.svc.cluster.local")) == ["10.0.5.2", "10.0.5.3", "10.0.5.4"]


def test_etcd_away_names_are_answered(site: DnsSite) -> None:
    site.stop("etcd", signal.SIGKILL)
    try:
        assert site.short("redis.default.svc.cluster.local") == ["10.97.218.31"]
        (pid,) = site.workers()
        os.kill(pid, signal.SIGKILL)
        until(lambda: site.short("+time=1", "redis.default.svc.cluster.local") == ["10.97.218.31"], "an answer")
        assert "NXDOMAIN" in site.dig("nothing.default.svc.cluster.local")
    finally:
        site.start_etcd()


def test_the_worker_has_no_rights(site: DnsSite) -> None:
    (pid,) = site.workers()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t") for line in lines if ":\t" in line)
    assert status["CapEff"] == status["CapBnd"] == "0" * 16
    assert status["Seccomp"] == "2"
    assert set(status["Uid"].split()) == {"82851"}


BYTES = st.binary(max_size=600)
HEADER = st.builds(
    struct.Struct("!HHHHHH").pack, *(st.integers(0, 65535) for _ in range(2)), *(st.integers(0, 3) for _ in range(4))
)


def _mutated(question: bytes, places: list[tuple[int, int]]) -> bytes:
    changed = bytearray(question)
    for at, value in places:
        changed[at % len(changed)] = value
    return bytes(changed)


QUESTION = dns.message.make_query("redis.default.svc.cluster.local", "A", use_edns=0).to_wire()
HOSTILE = st.one_of(
    BYTES,
    st.builds(bytes.__add__, HEADER, BYTES),
    st.builds(_mutated, st.just(QUESTION), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6)),
    st.builds(lambda count: QUESTION[:12] + b"\xc0\x0c" * count, st.integers(0, 100)),
)


def test_hostile_bytes_at_the_real_socket(site: DnsSite) -> None:
    """Whatever comes, the worker lives, and every answer is one to its own question, not larger than it may be."""
    (pid,) = site.workers()
    sock = site.pod.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sock.settimeout(20)
    sock.connect((ADDRESS, 53))

    sent = set[bytes]()

    @settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(HOSTILE)
    def send(data: bytes) -> None:
        probe = dns.message.make_query("redis.default.svc.cluster.local", "A")
        sent.add(data[:2])
        sock.send(data)
        sock.send(probe.to_wire())
        while True:
            answer = sock.recv(65535)
            assert len(answer) <= 1232
            assert answer[2] & 0x80
            if answer[:2] == probe.to_wire()[:2] and dns.message.from_wire(answer).rcode() == dns.rcode.NOERROR:
                return
            assert answer[:2] in sent  # some are for upstreams, and late

    with sock:
        send()
    assert site.workers() == [pid]


def test_hostile_bytes_by_tcp(site: DnsSite) -> None:
    (pid,) = site.workers()
    for data in (b"\x00", b"\x00\x05ab", struct.pack("!H", 65535) + bytes(65535), b"\x00\x00", b"\xff" * 100):
        with site.pod.call(lambda: socket.create_connection((ADDRESS, 53), timeout=10)) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
    assert site.short("+tcp", "redis.default.svc.cluster.local") == ["10.97.218.31"]
    assert site.workers() == [pid]


# --- last: the daemon ends -------------------------------------------------------------------------------------------


def test_what_stays_and_what_goes(site: DnsSite) -> None:
    site.stop("services")
    assert site.host.attempt("nft", "list", "table", "ip", "overlay-dns").returncode != 0
    assert "overlay-dns" in site.host.run("ip", "link")
    started = time.monotonic()
    assert "refused" in site.dig("+time=5", "redis.default.svc.cluster.local")
    assert time.monotonic() - started < LIMIT
    told = site.host.run(
        sys.executable, "-m", "overlay", "cleanup", "--state-dir", str(site.folder / "run"),
        "--subnet-file", str(site.folder / "none" / "subnet.env"), "--data-dir", str(site.folder / "data"),
    )  # fmt: skip
    assert "device overlay-dns removed" in told
    assert "overlay-dns" not in site.host.run("ip", "link")
    (site.folder / "run").mkdir(exist_ok=True)
    site.start_services()
    assert site.short("redis.default.svc.cluster.local") == ["10.97.218.31"]
    assert STRANGER not in site.log("services")


def test_a_resolver_of_this_host_that_asks_us_back_is_named(site: DnsSite) -> None:
    need_programs("dnsmasq")
    site.start(
        "dnsmasq", site.host, "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null",
        "--pid-file=", "--user=root", f"--listen-address={HOST}", "--bind-interfaces", f"--server={ADDRESS}",
    )  # fmt: skip
    site.stop("services")
    try:
        site.start_services("--dns-upstreams", f"{HOST},{UPSTREAM}")

        def report() -> dict[str, Any]:
            return site.report() or {"dns": {}, "problems": [], "problem_details": []}

        until(lambda: report()["dns"].get("upstreams_looping") == [HOST], "the loop is seen")
        site.host.run("ip", "address", "add", "198.51.100.9/32", "dev", "lo")  # which makes the daemon look
        until(lambda: shown(report(), "dns-loop", f"{HOST}: asks this node"), "it is a problem")
    finally:
        site.host.attempt("ip", "address", "del", "198.51.100.9/32", "dev", "lo")
        site.stop("dnsmasq")
        site.stop("services")
        site.start_services()
