"""The lab itself: that it is what it says, removes all it made after any crash, and nothing else.

::

    sw ── bridge ──┬── etcd 172.31.0.100
                   ├── n1   172.31.0.1 ── docker0 ── n1p1
                   └── n2   172.31.0.2 ── docker0 ── n2p1
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from overlay.errors import LabError
from overlay.lab import bpffs, namespace
from overlay.lab.bench.scenarios import Measure
from overlay.lab.cluster import Lab
from overlay.lab.demo import capture_one, ping_matrix
from overlay.lab.faults import Fault, Slow, injected, partition, unplugged
from overlay.lab.namespace import call_inside
from overlay.lab.process import Process, poll, processes_in
from overlay.lab.shell import NETNS, overlay_command, run
from overlay.lab.state import StateDirectory
from overlay.lab.status import status_of
from overlay.lab.teardown import PINS, Removed, tear_down
from overlay.lab.topology import LabSpec
from overlay.lab.traffic import transfer
from overlay.linux.sockopt import UDP_SEGMENT
from tests.support.labs import MakeLab, need_programs

pytestmark = pytest.mark.root

N1, N2 = IPv4Address("172.31.0.1"), IPv4Address("172.31.0.2")


def overlay(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([overlay_command(), *arguments], capture_output=True, text=True, timeout=120, check=False)


def links_of_this_machine() -> str:
    return run(["ip", "-o", "link"]).stdout


class TestMachines:
    """Without agents."""

    def test_nodes_and_etcd_reach_each_other_and_the_machine_notices_nothing(self, make_lab: MakeLab) -> None:
        before = links_of_this_machine()
        lab = make_lab(nodes=2, agents=False)
        assert links_of_this_machine() == before
        assert lab.nodes[0].ping(N2).complete
        assert lab.nodes[1].ping(lab.spec.etcd_address.ip).complete
        assert lab.nodes[0].run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "1\n"

    def test_two_labs_side_by_side_do_not_see_each_other(self, make_lab: MakeLab, lab_name: str) -> None:
        one = make_lab(nodes=1, agents=False)
        two = make_lab(name=f"{lab_name}b", nodes=2, agents=False)
        assert two.nodes[0].ping(N2).complete
        assert not one.nodes[0].ping(N2, patience=0.3).complete
        two.down()
        assert one.nodes[0].ping(N1).complete

    def test_cards_are_given_back_under_their_own_names(self, make_lab: MakeLab, lab_name: str) -> None:
        """Devices that would go with a namespace that still has them stand for cards."""
        cards = [f"{lab_name}c{number}" for number in range(2)]
        run(["ip", "link", "add", cards[0], "type", "veth", "peer", "name", cards[1]])
        try:
            lab = make_lab(nodes=1, pods=0, agents=False, cards=tuple(cards), wire=True)
            assert not any(card in links_of_this_machine() for card in cards)
            assert lab.nodes[0].ping(lab.spec.etcd_address.ip).complete
            lab.down()
            assert all(f"{card}@" in links_of_this_machine() for card in cards)
        finally:
            run(["ip", "link", "del", cards[0]])

    @pytest.mark.etcd
    def test_etcd_keeps_its_data_through_a_kill(self, make_lab: MakeLab) -> None:
        lab = make_lab(nodes=1, pods=0, agents=False)
        lab.start_etcd()
        lab.put_config()
        lab.stop_etcd()
        lab.start_etcd()
        stored = lab.etcd.run("etcdctl", "get", "--print-value-only", "/coreos.com/network/config").stdout
        assert json.loads(stored) == {"Network": "10.0.0.0/16", "Backend": {"Type": "udp"}}

    def test_wire_mode_and_mtu(self, make_lab: MakeLab) -> None:
        lab = make_lab(nodes=1, pods=0, agents=False, wire=True, mtu=1400)
        features = lab.nodes[0].run("ethtool", "-k", "eth0").stdout
        assert "tcp-segmentation-offload: off" in features
        assert "generic-segmentation-offload: off" in features
        link = json.loads(lab.nodes[0].run("ip", "-j", "link", "show", "dev", "eth0").stdout)
        assert link[0]["mtu"] == 1400

    def test_in_wire_mode_nothing_crosses_that_is_larger_than_the_mtu(self, make_lab: MakeLab) -> None:
        """Neither a stream nor a train of datagrams, as the userspace datapath sends them."""
        n1, n2 = make_lab(nodes=2, pods=0, agents=False, wire=True).nodes

        def tap() -> socket.socket:
            return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))

        def send_train() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                udp.sendmsg((bytes(50_000),), [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", 1000))], 0, (str(N2), 9))

        with call_inside(n2.namespace, tap) as wire:
            wire.bind(("eth0", 0x0800))
            wire.setblocking(False)
            call_inside(n1.namespace, send_train)
            transfer(n1.namespace, n2.namespace, N2, seconds=1.0)
            lengths = set(_lengths(wire))
        assert 20 + 8 + 1000 in {length - 14 for length in lengths}, "the train's datagrams"
        assert max(lengths) == 14 + 1500, "the stream's packets"

    def test_call_inside_leaves_the_caller_where_it_is(self, make_lab: MakeLab) -> None:
        lab = make_lab(nodes=1, pods=0, agents=False)
        here = os.readlink("/proc/self/ns/net")
        there = call_inside(lab.nodes[0].namespace, lambda: os.readlink("/proc/thread-self/ns/net"))
        assert there == f"net:[{namespace.inode(lab.nodes[0].namespace)}]"
        assert os.readlink("/proc/self/ns/net") == here
        with pytest.raises(ZeroDivisionError):
            call_inside(lab.nodes[0].namespace, lambda: 1 // 0)
        with pytest.raises(LabError, match="namespace nosuch: does not exist"):
            call_inside("nosuch", lambda: None)


def _lengths(wire: socket.socket) -> Iterator[int]:
    """Of the frames that have come."""
    with suppress(BlockingIOError):
        while True:
            yield len(wire.recv(1 << 17))


class TestFaults:
    """On the underlay, where a ping from node to node shows them."""

    def test_drop_all_and_back(self, make_lab: MakeLab) -> None:
        lab = make_lab(nodes=2, pods=0, agents=False)
        n1 = lab.nodes[0]
        with injected(lab, [Fault("n1", drop=100)]):
            assert n1.ping(N2, patience=0.3).received == 0
        assert n1.ping(N2).complete

    def test_partition_is_between_two_alone(self, make_lab: MakeLab) -> None:
        lab = make_lab(nodes=2, pods=0, agents=False)
        etcd = lab.spec.etcd_address.ip
        with injected(lab, partition(lab, "n1", "etcd")):
            assert lab.nodes[0].ping(N2).complete
            assert lab.nodes[1].ping(etcd).complete
            assert lab.nodes[0].ping(etcd, patience=0.3).received == 0

    def test_some_are_lost(self, make_lab: MakeLab) -> None:
        lab = make_lab(nodes=2, pods=0, agents=False)
        # So that no ARP request is among the lost, behind which many pings would wait.
        assert lab.nodes[0].ping(N2).complete
        with injected(lab, [Fault("n1", drop=30)]):
            ping = lab.nodes[0].ping(N2, count=200, interval=0.002, patience=0.3)
        # Binomial: the chance to be outside is below 1e-9.
        assert 90 < ping.received < 185

    def test_duplicates_arrive(self, make_lab: MakeLab) -> None:
        lab = make_lab(nodes=2, pods=0, agents=False)
        n1 = lab.nodes[0]
        n1.ping(N2)
        with injected(lab, [Fault("n1", duplicate=100)]):
            assert "DUP!" in n1.run("ping", "-c3", "-i0.01", str(N2)).stdout

    def test_reordered_packets_arrive_late_and_whole(self, make_lab: MakeLab) -> None:
        lab = make_lab(nodes=2, pods=0, agents=False)
        n1 = lab.nodes[0]
        n1.ping(N2)
        with injected(lab, [Fault("n1", reorder=30)], [Slow("n2", late_mbit=1)]):
            shown = n1.run("ping", "-c200", "-i0.002", "-s1400", "-W1", str(N2), check=False).stdout
        order = [int(line.partition("icmp_seq=")[2].split()[0]) for line in shown.splitlines() if "icmp_seq=" in line]
        assert order != sorted(order)

    def test_rate(self, make_lab: MakeLab) -> None:
        lab = make_lab(nodes=2, pods=0, agents=False, wire=True)
        with injected(lab, [], [Slow("n2", mbit=50)]):
            moved = transfer(lab.nodes[0].namespace, lab.nodes[1].namespace, N2, seconds=1.0)
        assert 0.02 < moved.gigabits < 0.06

    def test_unplugged(self, make_lab: MakeLab) -> None:
        lab = make_lab(nodes=2, pods=0, agents=False)

        def has_carrier() -> bool:
            shown = lab.nodes[0].run("ip", "-j", "link", "show", "dev", "eth0").stdout
            return "NO-CARRIER" not in json.loads(shown)[0]["flags"]

        with unplugged(lab, "n1"):
            assert poll(lambda: not has_carrier(), 10)
        assert poll(has_carrier, 10)
        assert poll(lambda: lab.nodes[0].ping(N2, patience=0.3).complete, 10)


class TestTeardown:
    """``down`` after whatever happened."""

    @pytest.fixture
    def name(self, lab_name: str) -> Iterator[str]:
        yield lab_name
        tear_down(lab_name, StateDirectory.default(lab_name))

    def test_twice_does_nothing_the_second_time(self, name: str) -> None:
        lab = Lab.up(LabSpec(name=name, nodes=1, agents=False))
        assert len(lab.down().namespaces) == 4
        assert lab.down() == Removed()
        assert not lab.state.path.exists()

    @pytest.mark.etcd
    @pytest.mark.parametrize("seed", range(6))
    def test_after_up_was_killed_somewhere_in_the_middle(self, name: str, seed: int) -> None:
        """SIGKILL after a random time, from before the first namespace to after the last agent's start."""
        up = subprocess.Popen(
            [overlay_command(), "lab", "up", "--name", name, "--nodes", "2"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        state = StateDirectory.default(name)
        assert poll(lambda: state.exists or up.poll() is not None, 20)
        delay = random.Random(seed).random() ** 2 * 0.8
        with suppress(subprocess.TimeoutExpired):
            up.wait(delay)
        inodes = namespace.inodes(LabSpec(name=name, nodes=2).namespaces)
        up.kill()
        up.wait()
        down = overlay("lab", "down", "--name", name)
        assert (down.returncode, down.stderr) == (0, "")
        assert namespace.existing(f"{name}-") == []
        assert processes_in(inodes) == []
        assert not state.path.exists()

    def test_without_its_description_the_marks_tell(self, name: str) -> None:
        lab = Lab.up(LabSpec(name=name, nodes=1, agents=False))
        (lab.state.path / "lab.json").unlink()
        assert len(lab.down().namespaces) == 4
        assert namespace.existing(f"{name}-") == []
        assert not lab.state.path.exists()

    def test_what_others_made_stays(self, name: str) -> None:
        foreign = f"{name}-n7"
        run(["ip", "netns", "add", foreign])
        try:
            lab = Lab.up(LabSpec(name=name, nodes=1, agents=False))
            bystander = subprocess.Popen(["nsenter", f"--net={NETNS / foreign}", "sleep", "60"])
            lab.down()
            assert namespace.existing(f"{name}-") == [foreign]
            assert bystander.poll() is None
            bystander.kill()
            bystander.wait()
        finally:
            run(["ip", "netns", "del", foreign])

    def test_up_refuses_a_name_whose_namespaces_are_taken_and_leaves_them(self, name: str) -> None:
        foreign = f"{name}-n1"
        run(["ip", "netns", "add", foreign])
        try:
            with pytest.raises(LabError, match=f"namespace {foreign} is there already"):
                Lab.up(LabSpec(name=name, nodes=1, agents=False))
            assert namespace.existing(f"{name}-") == [foreign]
        finally:
            run(["ip", "netns", "del", foreign])

    def test_stubborn_and_frozen_processes_end(self, name: str) -> None:
        lab = Lab.up(LabSpec(name=name, nodes=1, agents=False))
        node = lab.nodes[0]
        stubborn = node.spawn("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done", log="stubborn")
        frozen = node.spawn("sleep", "60", log="frozen")
        inside = namespace.inodes([node.namespace])
        assert poll(lambda: frozen in processes_in(inside), 10)
        frozen.signal(signal.SIGSTOP)
        assert poll(lambda: "ready" in node.files.log("stubborn").read_text(), 10)
        lab.down()
        assert not stubborn.alive
        assert not frozen.alive

    def test_lab_of_a_killed_process_is_removed_by_the_next_lab(self, name: str, make_lab: MakeLab) -> None:
        orphan = f"{name}o"
        script = (
            "import os, signal\n"
            "from overlay.lab.cluster import Lab\n"
            "from overlay.lab.topology import LabSpec\n"
            f"with Lab.running(LabSpec(name={orphan!r}, nodes=1, agents=False)):\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -signal.SIGKILL
        assert namespace.existing(f"{orphan}-")
        make_lab(nodes=1, pods=0, agents=False)
        assert namespace.existing(f"{orphan}-") == []

    def test_two_downs_at_once_do_not_hinder_each_other(self, name: str) -> None:
        Lab.up(LabSpec(name=name, nodes=4, agents=False))
        downs = [subprocess.Popen([overlay_command(), "lab", "down", "--name", name]) for _ in range(3)]
        assert [down.wait(60) for down in downs] == [0, 0, 0]
        assert namespace.existing(f"{name}-") == []

    @pytest.mark.etcd
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_demo_that_is_interrupted_cleans_up(self, name: str, number: signal.Signals) -> None:
        demo = subprocess.Popen([overlay_command(), "lab", "demo", "--name", name], stdout=subprocess.DEVNULL)
        assert poll(lambda: bool(namespace.existing(f"{name}-")), 20)
        inodes = namespace.inodes(namespace.existing(f"{name}-"))
        demo.send_signal(number)
        assert demo.wait(30) == 128 + number
        assert namespace.existing(f"{name}-") == []
        assert processes_in(inodes) == []
        assert not StateDirectory.default(name).path.exists()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_what_it_was_started_to_ignore_does_not_end_it(self, name: str, number: signal.Signals) -> None:
        """As nohup has it, and a script's background, for SIGINT."""
        command = f"trap '' {number.value}; exec {overlay_command()} lab up --no-agents --nodes 4 --name {name}"
        up = subprocess.Popen(["sh", "-c", command], stdout=subprocess.DEVNULL)
        assert poll(lambda: bool(namespace.existing(f"{name}-")) or up.poll() is not None, 20)
        up.send_signal(number)
        assert up.wait(30) == 0
        Lab.load(name).down()

    def test_two_benchmarks_at_once(self) -> None:
        """Of nodes without an overlay, the cheapest; namespaces are what they would meet in."""
        command = (
            overlay_command(),
            "lab",
            "bench",
            "--way",
            "plain",
            "--mode",
            "wire",
            "--seconds",
            "1",
            "--rounds",
            "1",
        )
        benchmarks = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)
        ]
        told = [benchmark.communicate(timeout=300)[0] for benchmark in benchmarks]
        assert [benchmark.returncode for benchmark in benchmarks] == [0, 0], "\n".join(told)

    @pytest.mark.etcd
    def test_two_demos_at_once(self) -> None:
        demos = [
            subprocess.Popen([overlay_command(), "lab", "demo", "--nodes", "2"], stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for demo in demos:
            told, _ = demo.communicate(timeout=300)
            assert demo.returncode == 0, told

    @pytest.mark.etcd
    def test_pinned_maps_go_as_well(self, name: str) -> None:
        lab = Lab.up(LabSpec(name=name, nodes=1))
        inodes = {str(inode) for inode in namespace.inodes(lab.spec.namespaces)}
        removed = lab.down()
        left = {path.name for path in PINS.iterdir()} if PINS.is_dir() else set()
        assert removed.namespaces
        assert not inodes & left

    def test_sigterm_to_up_removes_what_it_made(self, name: str) -> None:
        up = subprocess.Popen([overlay_command(), "lab", "up", "--name", name], stdout=subprocess.DEVNULL)
        assert poll(lambda: bool(namespace.existing(f"{name}-")), 20)
        up.terminate()
        assert up.wait(30) == 128 + signal.SIGTERM
        assert namespace.existing(f"{name}-") == []
        assert not StateDirectory.default(name).path.exists()


class TestCommandLine:
    """``overlay lab`` as a user types it."""

    def test_exec_passes_on_output_and_exit_status(self, make_lab: MakeLab) -> None:
        lab = make_lab(nodes=1, agents=False)
        done = overlay("lab", "exec", "--name", lab.spec.name, "n1", "--", "sh", "-c", "ip -br addr; exit 7")
        assert done.returncode == 7
        assert "172.31.0.1/24" in done.stdout
        assert overlay("lab", "exec", "--name", lab.spec.name, "n1p1", "ip", "-br", "link").returncode == 0

    @pytest.mark.parametrize(
        ("arguments", "status", "words"),
        [
            (["status", "--name", "nosuch"], 1, "there is none; overlay lab up makes one"),
            (["exec", "--name", "nosuch", "n1", "--", "true"], 1, "there is none"),
            (["up", "--nodes", "0"], 2, "0 nodes"),
            (["up", "--network", "10.0.0.0/33"], 2, "--network"),
            (["up", "--config", "{"], 2, "--config: no JSON"),
            (["up", "--name", "A-b"], 2, "lab name 'A-b'"),
        ],
    )
    def test_wrong_use_is_one_line(self, arguments: list[str], status: int, words: str) -> None:
        done = overlay("lab", *arguments)
        assert done.returncode == status
        assert words in done.stderr
        assert done.stderr.count("\n") == 1

    def test_down_of_no_lab_is_fine(self, lab_name: str) -> None:
        done = overlay("lab", "down", "--name", lab_name)
        assert (done.returncode, done.stdout) == (0, "nothing was left to remove\n")

    def test_unknown_machine_names_those_there_are(self, make_lab: MakeLab) -> None:
        lab = make_lab(nodes=1, agents=False)
        done = overlay("lab", "exec", "--name", lab.spec.name, "n9", "--", "true")
        assert "has no n9; it has sw, etcd, n1, n1p1" in done.stderr

    def test_state_directory_of_ones_own(self, lab_name: str, tmp_path: Path) -> None:
        where = ("--name", lab_name, "--state", str(tmp_path / "s"))
        assert overlay("lab", "up", "--no-agents", "--nodes", "1", *where).returncode == 0
        try:
            assert (tmp_path / "s" / "lab.json").exists()
            shown = json.loads(overlay("lab", "status", "--json", *where).stdout)
            assert [node["name"] for node in shown["nodes"]] == ["n1"]
        finally:
            assert overlay("lab", "down", *where).returncode == 0
        assert not (tmp_path / "s").exists()


@pytest.mark.etcd
class TestAgents:
    """The whole of it."""

    def test_pods_reach_each_other_through_the_tunnel(self, make_lab: MakeLab) -> None:
        lab = make_lab(nodes=2)
        pings = ping_matrix(lab.pods)
        assert all(ping.complete for ping in pings.values())
        assert {ping.ttl for ping in pings.values()} == {60}
        first, last = lab.pods
        seen, _ = capture_one(lab.nodes[0], first, last)
        # One hop less for the node's routing, one for the tunnel.
        assert seen.inner[0][8] == 62

    def test_status_is_the_truth(self, make_lab: MakeLab) -> None:
        lab = make_lab(nodes=2)
        healthy = status_of(lab)
        assert healthy.healthy
        assert [node.leased for node in healthy.nodes] == [True, True]
        assert healthy.nodes[0].pods[0].address == str(lab.pods[0].address)

        lab.nodes[0].freeze_agent()
        assert poll(lambda: status_of(lab).nodes[0].agent == "frozen", 10)
        lab.nodes[0].thaw_agent()
        lab.nodes[1].kill_agent()
        assert status_of(lab).nodes[1].agent == "stopped"
        assert overlay("lab", "status", "--name", lab.spec.name).returncode == 1
        lab.stop_etcd()
        assert not status_of(lab).etcd_answers

    def test_agent_ends_with_0_and_comes_back_with_the_same_subnet(self, make_lab: MakeLab) -> None:
        lab = make_lab(nodes=2)
        node = lab.nodes[0]
        before = node.subnet_file
        assert node.stop_agent() == 0
        node.start_agent()
        assert node.subnet_file == before
        assert poll(lambda: lab.pods[0].ping(lab.pods[1].address).complete, 10)

    def test_agent_that_ends_is_reported_with_its_last_words(self, make_lab: MakeLab) -> None:
        with pytest.raises(LabError, match=r"agent of n1: ended with status 2, and said last: .*nosuchflag"):
            make_lab(nodes=1, agent_arguments=("--nosuchflag",))

    def test_demo_is_complete_and_leaves_nothing(self, lab_name: str) -> None:
        done = overlay("lab", "demo", "--name", lab_name, "--nodes", "2")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "every packet arrived" in done.stdout
        assert "\x1b" not in done.stdout
        if shutil.which("kubectl") is not None:
            assert "service/lab created" in done.stdout
            assert re.search(r"n2p1 +1/1 +Running +0 +\S+ +10\.", done.stdout)
            assert re.search(r"endpoints/lab +10\.\d+\.\d+\.\d+:80,10\.", done.stdout)
        assert namespace.existing(f"{lab_name}-") == []


class TestBench:
    """The comparison itself is too slow for a test; its loop is not."""

    def test_json_of_one_round_in_wire_mode(self, lab_name: str, tmp_path: Path) -> None:
        need_programs("iperf3", "sockperf", "ethtool")
        ways = ("--way", "plain", "--way", "vxlan", "--mode", "wire", "--rounds", "1", "--seconds", "1")
        done = overlay("lab", "bench", "--name", lab_name, *ways, "--json", "--plot", str(tmp_path / "x.svg"))
        assert done.returncode == 0, done.stderr
        rows = json.loads(done.stdout)["results"]
        assert {(row["way"], row["measure"]) for row in rows} == {
            (way, measure.value) for way in ("plain", "vxlan") for measure in Measure
        }
        assert all(row["median"] > 0 and row["of_plain"] > 0 for row in rows)
        assert (tmp_path / "x.svg").read_text().startswith("<svg")
        assert namespace.existing(f"{lab_name}0-") == []

    def test_missing_programs_are_named(self, lab_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        for program in ("ip", "nsenter"):
            (tmp_path / program).symlink_to(shutil.which(program) or "")
        monkeypatch.setenv("PATH", str(tmp_path))
        done = overlay("lab", "bench", "--name", lab_name)
        assert done.returncode == 1
        assert (
            "missing bridge, ethtool, iperf3, sockperf; apt-get install iproute2 ethtool iperf3 sockperf" in done.stderr
        )


def test_processes_in_finds_only_those_inside(make_lab: MakeLab) -> None:
    lab = make_lab(nodes=2, pods=0, agents=False)
    inside = lab.nodes[0].spawn("sleep", "60", log="sleep")
    number = namespace.inode(lab.nodes[0].namespace)
    other = namespace.inode(lab.nodes[1].namespace)
    assert number is not None
    assert other is not None
    assert poll(lambda: processes_in([number]) == [Process(inside.pid, inside.start_time)], 10)
    assert processes_in([other]) == []


def test_a_bpf_file_system_that_is_still_in_use_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpffs, "MOUNT_POINT", tmp_path)
    run(["mount", "-t", "bpf", "lab", str(tmp_path)])
    try:
        user = subprocess.Popen(["sleep", "0.5"], cwd=tmp_path)
        assert bpffs.unmount()
        assert user.wait() == 0
        assert not os.path.ismount(tmp_path)
    finally:
        run(["umount", str(tmp_path)], check=False)
