"""The main job, on real parts: two agents, a real etcd, pods that reach each other.

etcd 172.31.0.100 ──┐
n1   172.31.0.1   ──┼── bridge        n1p1, n2p1: pods behind docker0 of their node
n2   172.31.0.2   ──┘
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from ipaddress import IPv4Network
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from overlay.lab.cluster import Lab
from overlay.lab.machine import Machine
from overlay.lab.namespace import call_inside
from overlay.lab.process import poll
from overlay.lab.topology import LabSpec
from overlay.node.subnet_env import previous_subnet
from tests.netns.agents import OVERLAY, PATIENCE, agent, without
from tests.support.problems import shown

pytestmark = [pytest.mark.root, pytest.mark.etcd]

SUBNETS = "/coreos.com/network/subnets/"

FIREWALL_TOOLS = ("nft", "iptables", "iptables-nft", "iptables-legacy")

NEW_ADDRESS_SECONDS = 3.0
"""Until traffic goes on from another address: half a second here, and one time-out of a dead connection is 3 s."""


@pytest.fixture
def site(lab_name: str) -> Iterator[Lab]:
    """Machines, etcd and a config; no agents yet."""
    with Lab.running(LabSpec(name=lab_name, nodes=2, pods=1, agents=False)) as lab:
        lab.start_etcd()
        lab.put_config()
        yield lab


@pytest.fixture
def node(lab_name: str) -> Iterator[Lab]:
    """One machine and etcd's, where etcd has not been started."""
    with Lab.running(LabSpec(name=lab_name, nodes=1, pods=0, agents=False)) as lab:
        yield lab


@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
def test_two_nodes_lease_tunnel_and_survive_a_kill(site: Lab, datapath: str) -> None:
    one, two = site.nodes
    for each in (one, two):
        each.start_agent(f"--datapath={datapath}")
    pod = two.pods[0]
    ping = one.pods[0].ping(pod.address, count=5)
    assert ping.complete
    printed = one.pods[0].run("ping", "-c1", str(pod.address)).stdout
    assert "ttl=60" in printed, "64, less one in each node's IP stack, less one in each datapath, as with flannel"

    before = (one.files.subnet_file.read_text(), two.files.subnet_file.read_text())
    assert stat.S_IMODE(one.files.subnet_file.stat().st_mode) == 0o644
    one.kill_agent()
    two.kill_agent()
    one.start_agent(f"--datapath={datapath}")
    two.start_agent(f"--datapath={datapath}")
    assert (one.files.subnet_file.read_text(), two.files.subnet_file.read_text()) == before
    assert one.pods[0].ping(pod.address, count=5).complete


@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
def test_what_cannot_be_delivered_is_answered(site: Lab, datapath: str) -> None:
    """By the datapath, from flannel0's address; flanneld lets a packet whose TTL ends vanish."""
    one, two = site.nodes
    for each in (one, two):
        each.start_agent(f"--datapath={datapath}")
    pod, tunnel = one.pods[0], next(iter(one.files.subnet_file.read_text().split("SUBNET=")[1].split(".1/")))
    unknown = pod.run("ping", "-c2", "-W5", "10.0.250.9", check=False).stdout
    assert f"From {tunnel}.0 icmp_seq=1 Destination Net Unreachable" in unknown
    expired = pod.run("ping", "-c2", "-W5", "-t2", str(two.pods[0].address), check=False).stdout
    assert f"From {tunnel}.0 icmp_seq=1 Time to live exceeded" in expired


def test_sigterm_ends_with_0_and_leaves_what_the_next_start_needs(node: Lab, tmp_path: Path) -> None:
    node.start_etcd()
    node.put_config()
    machine = node.nodes[0]
    for run, number in enumerate((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), start=1):
        with agent(machine, tmp_path / "a") as running:
            running.says("ready:", times=run)
            running.process.send_signal(number)
            assert running.ends() == 0
    assert "flannel0" in machine.run("ip", "link").stdout
    assert "10.0.0.0/16 dev flannel0" in machine.run("ip", "route").stdout
    leases = json.loads(machine.overlay("leases", "--json").stdout)
    assert [IPv4Network(lease["subnet"]) for lease in leases] == [previous_subnet(tmp_path / "a" / "subnet.env")]
    subnets = [line.rpartition(" ")[2] for line in running.log.splitlines() if "ready: subnet" in line]
    assert len(subnets) == 3
    assert len(set(subnets)) == 1


def test_what_it_was_started_to_ignore_it_goes_on_ignoring(node: Lab, tmp_path: Path) -> None:
    node.start_etcd()
    node.put_config()
    with agent(node.nodes[0], tmp_path, before=("nohup",)) as running:
        running.says("ready:")
        running.process.send_signal(signal.SIGHUP)
        assert report(node.nodes[0], tmp_path)["ready"]
        assert running.terminate() == 0


def test_release_on_exit_gives_the_subnet_back(node: Lab, tmp_path: Path) -> None:
    node.start_etcd()
    node.put_config()
    with agent(node.nodes[0], tmp_path, "--release-on-exit") as running:
        running.says("ready:")
        assert running.terminate() == 0
    assert json.loads(node.nodes[0].overlay("leases", "--json").stdout) == []


def test_a_reservation_is_taken_and_stays_permanent(node: Lab, tmp_path: Path) -> None:
    """flannel 1329: a reservation becomes a lease of 24 hours when its node takes it."""
    node.start_etcd()
    node.put_config()
    machine = node.nodes[0]
    machine.overlay("reserve", "10.0.77.0/24", "--public-ip", str(machine.address))
    with agent(machine, tmp_path) as running:
        running.says("ready: subnet 10.0.77.0/24")
        lease = json.loads(machine.overlay("leases", "--json").stdout)[0]
        assert (lease["subnet"], lease["reserved"], lease["expires_in_seconds"]) == ("10.0.77.0/24", True, None)
        assert lease["node_id"]


WRONG_CONFIGS = [
    ("{", "valid JSON"),
    ("[]", "JSON object"),
    ("{}", "Network = "),
    ('{"Network":"10.0.0.0/33"}', "Network = 10.0.0.0/33"),
    ('{"Network":"10.0.0.0/29"}', "Network = 10.0.0.0/29"),
    ('{"Network":"10.0.0.0/16","SubnetLen":17}', "SubnetLen = 17"),
    ('{"Network":"10.0.0.0/16","SubnetLen":31}', "SubnetLen = 31"),
    ('{"Network":"10.0.0.0/16","SubnetLen":"24"}', 'SubnetLen = "24": must be a whole number'),
    ('{"Network":"10.0.0.0/16","SubnetMin":"10.1.0.0"}', "SubnetMin = 10.1.0.0"),
    ('{"Network":"10.0.0.0/16","SubnetMin":"10.0.1.7"}', "SubnetMin = 10.0.1.7"),
    ('{"Network":"10.0.0.0/16","SubnetMin":"10.0.9.0","SubnetMax":"10.0.3.0"}', "10.0.9.0"),
    ('{"Network":"10.0.0.0/16","EnableIPv4":false}', "EnableIPv4"),
    ('{"Network":"10.0.0.0/16","Backend":{"Type":"udp","Port":70000}}', "Port = 70000"),
    ('{"Network":"10.0.0.0/16","Backend":{"Type":"vxlan"}}', "Backend.Type 'vxlan'"),
    ('{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/48"}', "the udp backend carries IPv4 only"),
]


class TestWhatIsWrongIsSaid:
    """One clear line, a fitting exit status or another attempt, and never a traceback."""

    def test_no_etcd_is_waited_for(self, node: Lab, tmp_path: Path) -> None:
        with agent(node.nodes[0], tmp_path) as running:
            running.says("172.31.0.100:2379")
            assert running.process.poll() is None
            node.start_etcd()
            running.says("there is no network config")
            node.put_config()
            running.says("ready:")
        assert running.log.count("WARNING control.plane: /coreos.com/network/config: there is no network config") == 1

    def test_each_broken_rule_of_the_config_names_its_field_and_is_waited_for(self, node: Lab, tmp_path: Path) -> None:
        node.start_etcd()
        with agent(node.nodes[0], tmp_path) as running:
            running.says("there is no network config")
            for config, complaint in WRONG_CONFIGS:
                node.put_config(config)
                running.says(complaint)
            assert running.process.poll() is None
            assert not running.subnet_file.exists()
            node.put_config()
            running.says("ready:")

    def test_no_privileges(self, node: Lab, tmp_path: Path) -> None:
        drop = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-all")
        with agent(node.nodes[0], tmp_path, before=drop) as running:
            assert running.ends() == 1
        assert "run it as root, or with CAP_NET_ADMIN" in running.log
        assert running.log.count("\n") == 1

    def test_no_tun_driver(self, node: Lab, tmp_path: Path) -> None:
        """Where the config's backend needs one, before anything is leased; another backend needs none."""
        hide = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
        node.start_etcd()
        node.put_config()
        with agent(node.nodes[0], tmp_path, before=hide) as running:
            assert running.ends() == 1
        last = running.log.splitlines()[-1]
        assert last == "overlay: /dev/net/tun: No such file or directory; load the driver with 'modprobe tun'"
        assert json.loads(node.nodes[0].overlay("leases", "--json").stdout) == []
        node.put_config('{"Network":"10.0.0.0/16","Backend":{"Type":"host-gw"}}')
        with agent(node.nodes[0], tmp_path, before=hide) as running:
            running.says("ready:")
            node.put_config()
            running.says("/dev/net/tun: No such file or directory; load the driver with 'modprobe tun'; trying again")
            assert report(node.nodes[0], tmp_path)["ready"], "the backend that runs goes on"

    def test_an_unknown_interface_is_named_with_those_there_are(self, node: Lab, tmp_path: Path) -> None:
        with agent(
            node.nodes[0], tmp_path, "--iface=eth7", "--etcd-endpoints=http://172.31.0.100:2379", defaults=False
        ) as running:
            running.says("--iface eth7: no interface with an IPv4 address fits; here are: ")
            assert "eth0 (172.31.0.1)" in running.log
            assert running.process.poll() is None

    def test_a_port_in_use_is_tried_again(self, node: Lab, tmp_path: Path) -> None:
        node.start_etcd()
        node.put_config()
        machine = node.nodes[0]
        holder = machine.popen("python3", "-c", "import socket,time;s=socket.socket(2,2);"
                               "s.bind(('172.31.0.1',8285));print(flush=True);time.sleep(600)")  # fmt: skip
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            with agent(machine, tmp_path) as running:
                running.says("8285")
                running.says("trying again")
                assert running.process.poll() is None
                holder.kill()
                running.says("ready:")
        finally:
            holder.kill()
            holder.communicate()

    def test_an_unwritable_subnet_file_is_tried_again(self, node: Lab, tmp_path: Path) -> None:
        node.start_etcd()
        node.put_config()
        with agent(
            node.nodes[0],
            tmp_path,
            "--iface=eth0",
            "--etcd-endpoints=http://172.31.0.100:2379",
            "--subnet-file=/proc/overlay/subnet.env",
            defaults=False,
        ) as running:
            running.says("cannot write /proc/overlay/subnet.env: ")
            running.says("trying again")
            assert running.process.poll() is None
            assert shown(report(node.nodes[0], tmp_path), "node", "cannot write /proc/overlay/subnet.env: ")

    def test_a_machine_without_tools_for_a_firewall_says_so(self, node: Lab, tmp_path: Path) -> None:
        """No nft, no iptables: packets pass all the same where nothing forbids it."""
        node.start_etcd()
        node.put_config()
        machine = node.nodes[0]
        with agent(machine, tmp_path, before=without(*FIREWALL_TOOLS)) as running:
            running.says("ready:")
            assert poll(lambda: shown(report(machine, tmp_path), "firewall", "apt-get install"), PATIENCE)
            assert report(machine, tmp_path)["ready"]
            # What the remedy says is enough: nobody has to restart the agent.
            bare = (
                "nsenter",
                f"--target={running.process.pid}",
                "--mount",
                "umount",
                os.path.realpath(which("nft") or "nft"),
            )
            subprocess.run(bare, check=True)
            assert poll(lambda: report(machine, tmp_path)["problems"] == [], PATIENCE)
            assert "flannel-ipv4" in machine.run("nft", "list", "tables").stdout

    def test_a_second_agent_is_refused(self, node: Lab, tmp_path: Path) -> None:
        with agent(node.nodes[0], tmp_path / "one") as first:
            first.says("172.31.0.100:2379")
            with agent(node.nodes[0], tmp_path / "two", f"--state-dir={tmp_path}/one") as second:
                assert second.ends() == 1
            assert f"another agent runs there (process {first.process.pid})" in second.log


def test_malformed_keys_hurt_nobody(site: Lab) -> None:
    """flannel 2539: one bad key removes every peer."""
    one, two = site.nodes
    for each in (one, two):
        each.start_agent()
    for key, value in (
        ("10.0.200.0-24", "{broken"),
        ("10.0.201.0-99", '{"PublicIP":"172.31.0.9"}'),
        ("what is this", '{"PublicIP":"172.31.0.9"}'),
        ("10.0.202.0-24", '{"PublicIP":7}'),
    ):
        site.etcd.run("etcdctl", "put", f"/coreos.com/network/subnets/{key}", text=value)

    def skipped() -> int:
        shown = one.run(OVERLAY, "status", "--json", f"--state-dir={one.files.directory}", check=False)
        report = json.loads(shown.stdout)
        assert len(report["peers"]) == 1
        return int(report["store"]["skipped_keys"])

    assert poll(lambda: skipped() == 4, PATIENCE)
    assert one.pods[0].ping(two.pods[0].address, count=3).complete
    one.kill_agent()
    one.start_agent()
    assert one.pods[0].ping(two.pods[0].address, count=3).complete
    assert skipped() == 4
    assert "10.0.201.0-99" in one.files.log("agent").read_text()
    listed = one.overlay("leases", "--json")
    assert len(json.loads(listed.stdout)) == 2
    assert listed.stderr.count("skipped") == 4


@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
def test_a_new_public_ip_reaches_every_peer(site: Lab, datapath: str) -> None:
    """flannel 408, 1052, 760: a changed address needs a restart."""
    one, two = site.nodes
    for each in (one, two):
        each.start_agent(f"--datapath={datapath}")
    one.run("sysctl", "-qw", "net.ipv4.conf.eth0.promote_secondaries=1")
    ping = one.pods[0].popen("ping", "-i", "0.02", "-D", "-q", str(two.pods[0].address))
    try:
        one.run("ip", "addr", "add", "172.31.0.41/24", "dev", "eth0")
        one.run("ip", "addr", "del", "172.31.0.1/24", "dev", "eth0")
        changed = time.monotonic()
        assert poll(lambda: "172.31.0.41" in {peer["public_ip"] for peer in report(two)["peers"]}, PATIENCE)
        assert poll(lambda: one.pods[0].ping(two.pods[0].address, count=1).complete, PATIENCE)
        took = time.monotonic() - changed
        ping.send_signal(signal.SIGINT)
        out, _ = ping.communicate(timeout=PATIENCE)
    finally:
        ping.kill()
        ping.wait()
    sent, received = (int(word) for word in re.findall(rb"(\d+) (?:packets transmitted|received)", out))
    print(f"{datapath}: {(sent - received) * 0.02:.2f} s without traffic, {took:.2f} s until all was right")
    assert took < NEW_ADDRESS_SECONDS, "the lease was written over a connection from the address that is gone"
    assert two.pods[0].ping(one.pods[0].address, count=3).complete


def test_a_subnet_lost_to_another_with_none_free_is_not_ready(node: Lab, tmp_path: Path) -> None:
    """Packets to the subnet go elsewhere: whoever asks for readiness has to know."""
    node.start_etcd()
    node.put_config('{"Network":"10.0.0.0/16","SubnetMin":"10.0.30.0","SubnetMax":"10.0.31.0"}')
    machine = node.nodes[0]

    def take(subnet: str, address: str) -> None:
        node.etcd.run("etcdctl", "put", f"{SUBNETS}{subnet}", text=f'{{"PublicIP":"{address}","NodeID":"{address}"}}')

    take("10.0.31.0-24", "172.30.9.51")
    with agent(machine, tmp_path, "--healthz-port=8471", "--healthz-ip=127.0.0.1") as running:
        running.says("ready: subnet 10.0.30.0/24")
        assert probe(machine, "/readyz")[0] == 200
        assert report(machine, tmp_path)["ready"]
        take("10.0.30.0-24", "172.30.9.50")
        assert poll(lambda: probe(machine, "/readyz")[0] == 503, PATIENCE)
        assert poll(lambda: "out of subnets" in probe(machine, "/readyz")[1], PATIENCE)
        assert probe(machine, "/healthz")[0] == 200, "to start it again would be of no use"
        said = report(machine, tmp_path)
        assert (said["ready"], said["lease"], said["phase"]) == (False, None, "exhausted")
        assert shown(said, "exhausted", "out of subnets")
        printed = machine.run(OVERLAY, "status", f"--state-dir={tmp_path}", check=False)
        assert printed.returncode == 1
        assert "none (10.0.30.0/24 is now 172.30.9.50's)" in printed.stdout
        node.etcd.run("etcdctl", "del", f"{SUBNETS}10.0.31.0-24")
        assert poll(lambda: probe(machine, "/readyz") == (200, "subnet 10.0.31.0/24, 1 peers\n"), PATIENCE)
        # A lease that is being taken again, of an etcd that is away, is held all the same.
        node.stop_etcd()
        assert poll(lambda: not report(machine, tmp_path)["store"]["connected"], PATIENCE)
        assert poll(lambda: shown(report(machine, tmp_path), "store"), PATIENCE)
        assert probe(machine, "/readyz")[0] == 200


def test_an_underlay_without_an_address_is_told_while_it_lasts(node: Lab, tmp_path: Path) -> None:
    node.start_etcd()
    node.put_config()
    machine = node.nodes[0]
    with agent(machine, tmp_path) as running:
        running.says("ready:")
        machine.run("ip", "addr", "del", "172.31.0.1/24", "dev", "eth0")
        assert poll(lambda: not report(machine, tmp_path)["ready"], PATIENCE)
        assert shown(report(machine, tmp_path), "underlay", "--iface eth0")
        machine.run("ip", "addr", "add", "172.31.0.1/24", "dev", "eth0")
        assert poll(lambda: report(machine, tmp_path)["ready"], PATIENCE)
        assert poll(lambda: report(machine, tmp_path)["problems"] == [], PATIENCE)


def test_an_underlay_that_is_down_is_told_while_it_lasts(node: Lab, tmp_path: Path) -> None:
    """It keeps its address; to have one is not enough."""
    node.start_etcd()
    node.put_config()
    machine = node.nodes[0]
    with agent(machine, tmp_path) as running:
        running.says("ready:")
        machine.run("ip", "link", "set", "eth0", "down")
        assert poll(lambda: not report(machine, tmp_path)["ready"], PATIENCE)
        assert shown(report(machine, tmp_path), "underlay", "interface eth0: is down; ip link set eth0 up")
        machine.run("ip", "link", "set", "eth0", "up")
        assert poll(lambda: report(machine, tmp_path)["ready"], PATIENCE)
        assert poll(lambda: report(machine, tmp_path)["problems"] == [], PATIENCE)


def test_a_command_on_subnet_change_holds_nothing_up_and_is_not_lost(node: Lab, tmp_path: Path) -> None:
    node.start_etcd()
    node.put_config()
    machine, told, pid = node.nodes[0], tmp_path / "told", tmp_path / "pid"
    hangs = f"echo $FLANNEL_OLD_SUBNET $FLANNEL_SUBNET >>{told}; sleep 1000 & echo $! >{pid}; wait"
    with agent(machine, tmp_path / "a", f"--on-subnet-change={hangs}") as running:
        running.says("ready:")
        before = previous_subnet(running.subnet_file)
        assert before is not None
        key = f"{SUBNETS}{before.network_address}-24"
        node.etcd.run("etcdctl", "put", key, text='{"PublicIP":"172.30.9.50","NodeID":"another"}')
        assert poll(lambda: pid.exists() and pid.read_text() != "", PATIENCE)
        child = Path("/proc", pid.read_text().strip())
        machine.run("ip", "route", "del", "10.0.0.0/16")
        assert poll(lambda: "10.0.0.0/16 dev flannel0" in machine.run("ip", "route").stdout, PATIENCE)
        assert child.exists(), "all this while the command runs"
        assert running.terminate() == 0
        assert poll(lambda: not child.exists(), PATIENCE)
    now = previous_subnet(running.subnet_file)
    assert now not in (None, before)
    with agent(machine, tmp_path / "a", f"--on-subnet-change=echo $FLANNEL_OLD_SUBNET $FLANNEL_SUBNET >>{told}"):
        assert poll(lambda: len(told.read_text().splitlines()) == 2, PATIENCE)
    first, second = told.read_text().splitlines()
    assert first == second
    assert first.startswith(f"{before} ")


def report(machine: Machine, directory: Path | None = None) -> dict[str, Any]:
    """What the agent says of itself."""
    where = directory or machine.files.directory
    printed = machine.run(OVERLAY, "status", "--json", f"--state-dir={where}", check=False)
    found: dict[str, Any] = json.loads(printed.stdout)
    return found


def probe(machine: Machine, path: str) -> tuple[int, str]:
    """Status and body of the health port's answer."""
    http = HTTPConnection("127.0.0.1", 8471, timeout=PATIENCE)
    call_inside(machine.namespace, http.connect)
    with closing(http):
        http.request("GET", path)
        with http.getresponse() as answer:
            return answer.status, answer.read().decode()


def test_a_wider_network_and_another_port_are_applied_while_running(site: Lab) -> None:
    """flannel 196, 1604: a changed config is ignored."""
    one, two = site.nodes
    for each in (one, two):
        each.start_agent()
    before = one.files.subnet_file.read_text()
    site.put_config('{"Network":"10.0.0.0/15","SubnetLen":24,"Backend":{"Type":"udp","Port":9999}}')
    for each in (one, two):
        assert poll(lambda each=each: "10.0.0.0/15" in each.files.subnet_file.read_text(), PATIENCE)  # type: ignore[misc]
        assert poll(lambda each=each: ":9999" in each.run("ss", "-lun").stdout, PATIENCE)  # type: ignore[misc]
    assert one.pods[0].ping(two.pods[0].address, count=3).complete
    assert one.files.subnet_file.read_text() == before.replace("10.0.0.0/16", "10.0.0.0/15")

    site.put_config('{"Network":"10.9.0.0/16"}')
    assert poll(lambda: "is refused" in one.files.log("agent").read_text(), PATIENCE)
    assert shown(report(one), "config")
    assert one.pods[0].ping(two.pods[0].address, count=3).complete


def test_what_keeps_packets_from_passing_is_said_and_over_when_it_is(node: Lab, tmp_path: Path) -> None:
    """IP forwarding off, a health port that is taken, a full state directory: the agent goes on, and status says so."""
    node.start_etcd()
    node.put_config()
    machine = node.nodes[0]
    machine.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "full", str(full)], check=True)
    try:
        with suppress(OSError), (full / "filling").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        variables = os.environ | {"FLANNELD_IP_MASK": "true"}
        taken = call_inside(machine.namespace, lambda: socket.create_server(("127.0.0.1", 8099)))
        health = ("--healthz-ip=localhost", "--healthz-port=8099", f"--data-dir={full}")
        with taken, agent(machine, tmp_path / "a", *health, f"--state-dir={full}", env=variables) as running:
            running.says("FLANNELD_IP_MASK has no effect: no flag takes it; is FLANNELD_IP_MASQ meant?")
            running.says("ready:")
            running.says("health port 8099 on localhost: ")
            running.says("net.ipv4.ip_forward: IP forwarding is off")

            def status() -> tuple[int, str]:
                done = machine.run(OVERLAY, "status", f"--state-dir={full}", check=False)
                return done.returncode, " ".join(done.stdout.split())

            code, told = status()
            assert code == 1
            assert "ready yes" in told
            said = report(machine, full)
            assert shown(said, "forwarding", "reaches another node; sysctl -w net.ipv4.ip_forward=1")
            assert shown(said, "health", "health port 8099 on localhost")
            assert shown(said, "memory", f"cannot write {full}/lease.json: No space left on device", "after a reboot")
            taken.close()
            (full / "filling").unlink()
            machine.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
            running.says("over: health port 8099 on localhost")
            assert poll(lambda: status()[0] == 0, 2 * PATIENCE), status()  # it is tried again after half a minute
            assert (full / "lease.json").exists()
            assert call_inside(machine.namespace, lambda: _probe("/healthz?verbose")) == 200
            assert running.terminate() == 0
    finally:
        subprocess.run(["umount", str(full)], check=True)


def _probe(path: str) -> int:
    with closing(HTTPConnection("127.0.0.1", 8099, timeout=PATIENCE)) as connection:
        connection.request("GET", path)
        return connection.getresponse().status
