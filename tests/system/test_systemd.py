"""The agent's units under a real systemd: order, readiness, watchdog, every way to end, upgrade."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from overlay.cli.settings import parse
from tests.support.docker import bridge, start_container, start_docker
from tests.support.site import PYTHON, Site, build_release, installer, overlay, settings, subnet, wait_for_agent
from tests.support.systemd import Booted, wait_until

pytestmark = pytest.mark.root

MakeSite = Callable[..., Site]

UNITS = ("overlay.service", "overlay-docker.path", "overlay-docker.service", "docker.service")

EXPOSURE_LIMITS = {"overlay": 3.6, "overlay-services": 3.3, "overlay-api": 1.3}
"""systemd-analyze security: 0 is perfectly shut off, 10 not at all. An unhardened service has 9.6."""

_DROP_INS = "/etc/systemd/system/overlay.service.d"

QUICK_WATCHDOG = {f"{_DROP_INS}/quick.conf": "[Service]\nWatchdogSec=3\nTimeoutAbortSec=1\n"}


def with_options(options: str) -> dict[str, str]:
    """A drop-in that adds flags to the agent's command line."""
    return {f"{_DROP_INS}/options.conf": f"[Service]\nEnvironment=OVERLAY_OPTIONS={options}\n"}


@pytest.fixture
def node(make_site: MakeSite) -> Booted:
    """One node; nothing is started."""
    return make_site(nodes=1).nodes[0]


def worker_pids(node: Booted) -> list[int]:
    """Processes of the agent's unit but the agent itself, as seen inside."""
    group = node.show("overlay", "ControlGroup")
    if not group:
        return []
    text = node.run("cat", f"/sys/fs/cgroup/systemd{group}/cgroup.procs", check=False).stdout
    return [int(pid) for pid in text.split() if int(pid) != node.main_pid("overlay")]


def test_the_units_are_correct_and_shut_off(node: Booted, capsys: pytest.CaptureFixture[str]) -> None:
    done = node.run("systemd-analyze", "verify", *UNITS, "overlay-services.service", "overlay-api.service")
    assert done.stdout + done.stderr == ""
    for unit, at_most in EXPOSURE_LIMITS.items():
        report = node.run("systemd-analyze", "security", f"{unit}.service").stdout
        found = re.search(rf"Overall exposure level for {unit}.service: ([0-9.]+)", report)
        assert found is not None
        with capsys.disabled():
            print(f"\nsystemd-analyze security: exposure of {unit}.service {found[1]} (of 10)")
        assert float(found[1]) <= at_most


def test_docker_starts_once_the_agent_is_ready(make_site: MakeSite) -> None:
    """While the network has no config there is no subnet, so Docker waits; both come up when it is there."""
    site = make_site(nodes=1)
    (node,) = site.nodes
    site.etcdctl("del", "/coreos.com/network/config")
    node.systemctl("enable", "overlay")
    node.systemctl("start", "--no-block", "docker")
    wait_until(lambda: node.show("overlay", "StatusText") != "", 30, "a status that says why")
    assert node.show("overlay", "ActiveState") == "activating"
    assert node.show("docker", "ActiveState") == "inactive"
    assert node.run("test", "-e", "/run/flannel/subnet.env", check=False).returncode != 0
    overlay(node, "config", "set", '{"Network":"10.0.0.0/16","Backend":{"Type":"udp"}}')
    wait_until(lambda: node.active("docker"), 60, "an active Docker")
    assert node.active("overlay")
    ready, started = (
        int(node.show(unit, name))
        for unit, name in (("overlay", "ActiveEnterTimestampMonotonic"), ("docker", "ExecMainStartTimestampMonotonic"))
    )
    assert ready <= started
    assert str(subnet(node)) in node.read("/run/flannel/docker")


def test_an_agent_that_nobody_enabled_does_not_keep_docker(make_site: MakeSite) -> None:
    """Installed is not enabled: Docker is as it was, now and after a reboot, and so it is again once disabled."""
    site = make_site(nodes=1)
    (node,) = site.nodes
    site.etcdctl("del", "/coreos.com/network/config")

    def docker_is_alone() -> bool:
        node.systemctl("start", "docker")
        return [node.show(unit, "ActiveState") for unit in UNITS] == ["inactive", "inactive", "inactive", "active"]

    assert docker_is_alone()
    assert bridge(node) == IPv4Interface("172.17.0.1/16")
    node.systemctl("enable", "overlay")
    assert {"overlay.service", "overlay-docker.path"} <= set(node.show("docker", "Wants").split())
    node.systemctl("disable", "overlay")
    node.systemctl("stop", "docker.service", "docker.socket")
    assert docker_is_alone()


def test_docker_that_would_not_wait_is_readdressed(make_site: MakeSite) -> None:
    """An operator's TimeoutStartSec= lets Docker start without a subnet; it gets it as soon as there is one."""
    site = make_site(nodes=1, files={f"{_DROP_INS}/timeout.conf": "[Service]\nTimeoutStartSec=2\n"})
    (node,) = site.nodes
    site.etcdctl("del", "/coreos.com/network/config")
    node.systemctl("enable", "overlay")
    node.systemctl("start", "docker")
    assert "--bip" not in node.read("/run/flannel/docker")
    site.lab.put_config()
    wait_for_agent(node, 60)
    wait_until(lambda: str(subnet(node)) in node.read("/run/flannel/docker"), 60, "the subnet in Docker's options")
    wait_until(lambda: bridge(node) == subnet(node), 60, "docker0 in the subnet")


def test_a_subnet_given_back_is_nobodys(make_site: MakeSite) -> None:
    site = make_site(nodes=2)
    leaving, staying = site.nodes
    for node in site.nodes:
        node.systemctl("start", "overlay")
    leaving.systemctl("stop", "overlay")
    overlay(leaving, "release")
    assert [lease["subnet"] for lease in site.leases()] == [str(subnet(staying).network)]


def test_the_status_tells_the_subnet(node: Booted) -> None:
    node.systemctl("start", "overlay")
    wait_until(lambda: str(subnet(node).network) in node.show("overlay", "StatusText"), 20, "the subnet in the status")


def test_a_frozen_agent_is_replaced_by_the_watchdog(make_site: MakeSite) -> None:
    site = make_site(nodes=1, files=QUICK_WATCHDOG)
    (node,) = site.nodes
    start_docker(node)
    docker, agent, before = node.main_pid("docker"), node.main_pid("overlay"), subnet(node)
    node.kill(agent, signal.SIGSTOP)
    wait_until(lambda: node.main_pid("overlay") not in (0, agent), 60, "another agent")
    wait_for_agent(node)
    assert "watchdog" in node.journal("overlay").lower()
    assert subnet(node) == before
    assert node.main_pid("docker") == docker
    assert len(site.leases()) == 1


def test_a_frozen_worker_does_not_feed_the_watchdog(make_site: MakeSite) -> None:
    """Packets that no one moves are an outage as well: worker or agent are replaced, whoever notices."""
    (node,) = make_site(nodes=1, files=QUICK_WATCHDOG | with_options("--datapath=userspace")).nodes
    node.systemctl("start", "overlay")
    workers = worker_pids(node)
    assert workers
    # setrlimit(2): 20 less the nice level. Whether systemd may set it depends on what this container is in.
    assert node.show("overlay", "LimitNICE") == "30", "workers may have the priority with which they were measured"
    for pid in workers:
        node.kill(pid, signal.SIGSTOP)
    wait_until(lambda: bool(worker_pids(node)) and not set(worker_pids(node)) & set(workers), 90, "other workers")
    wait_for_agent(node)


def test_a_healthy_agent_is_left_alone_by_the_watchdog(make_site: MakeSite) -> None:
    (node,) = make_site(nodes=1, files=QUICK_WATCHDOG).nodes
    node.systemctl("start", "overlay")
    agent = node.main_pid("overlay")
    began = float(node.read("/proc/uptime").split()[0])
    wait_until(lambda: float(node.read("/proc/uptime").split()[0]) - began > 8, 30, "two and a half watchdog periods")
    assert node.main_pid("overlay") == agent
    assert node.show("overlay", "NRestarts") == "0"


def test_a_killed_agent_comes_back_with_its_subnet(make_site: MakeSite) -> None:
    site = make_site(nodes=1)
    (node,) = site.nodes
    start_docker(node)
    before, docker = subnet(node), node.main_pid("docker")
    for _ in range(3):
        agent = node.main_pid("overlay")
        node.kill(agent, signal.SIGKILL)
        wait_until(lambda agent=agent: node.main_pid("overlay") not in (0, agent), 30, "another agent")  # type: ignore[misc]
        wait_for_agent(node)
    assert subnet(node) == before
    assert node.main_pid("docker") == docker
    assert len(site.leases()) == 1


def test_stopping_leaves_the_node_as_it_is_and_no_process(make_site: MakeSite) -> None:
    site = make_site(nodes=1)
    (node,) = site.nodes
    start_docker(node)
    docker, env = node.main_pid("docker"), node.read("/run/flannel/subnet.env")
    node.systemctl("stop", "overlay")
    assert node.show("overlay", "Result") == "success"
    assert node.show("overlay", "ExecMainStatus") == "0"
    assert worker_pids(node) == []
    assert node.read("/run/flannel/subnet.env") == env
    assert "flannel0" in node.run("ip", "route").stdout
    assert node.main_pid("docker") == docker
    assert len(site.leases()) == 1
    node.systemctl("start", "overlay")
    assert node.read("/run/flannel/subnet.env") == env


def test_cleanup_removes_what_the_agent_made_and_leaves_docker_alone(node: Booted) -> None:
    start_docker(node)
    docker = node.main_pid("docker")
    refused = node.run("overlay", "cleanup", check=False)
    assert refused.returncode == 1
    assert "another agent runs there" in refused.stderr
    node.systemctl("stop", "overlay")
    told = node.run("overlay", "cleanup").stdout
    assert "device flannel0" in told
    assert "/run/flannel/subnet.env" in told
    assert "flannel0" not in node.run("ip", "link").stdout + node.run("ip", "route").stdout
    assert "FLANNEL" not in node.run("sh", "-c", "iptables-save -t filter; iptables-save -t nat").stdout
    # The watch on subnet.env sees it go; that is no reason to give Docker other addresses.
    wait_until(lambda: node.show("overlay-docker.service", "ActiveState") == "inactive", 20, "the watch's service")
    assert node.main_pid("docker") == docker
    assert "flannel0" not in node.run("overlay", "cleanup").stdout
    node.systemctl("start", "overlay")
    assert node.active("overlay")


def test_a_wrong_flag_is_not_tried_again(make_site: MakeSite) -> None:
    (node,) = make_site(nodes=1, files=with_options("--nonsense")).nodes
    node.systemctl("start", "overlay", check=False)
    wait_until(lambda: node.show("overlay", "ActiveState") == "failed", 20, "a failed unit")
    assert node.show("overlay", "ExecMainStatus") == "2"
    assert node.show("overlay", "NRestarts") == "0"
    assert "--nonsense" in node.journal("overlay")
    assert "Traceback" not in node.journal("overlay")


HOSTILE_SETTINGS = r"""
PLAIN=value
BLANKS= before and after<BLANKS>
 INDENTED=1
SPACED = name
# COMMENTED=out
; COMMENTED=out
DOUBLE="in \"quotes\" $HOME `id` \\ \n # no comment"<BLANKS>
SINGLE='in $(touch /tmp/ran) quotes \'
JOINED='one'"two" three
LATER=a"b"'c'
HASH=not # a comment
DOLLAR=$(touch /tmp/ran) `touch /tmp/ran` $HOME ~ *
SEMICOLON=a; touch /tmp/ran
CONTINUED=first \
  second
ESCAPED=\a\ \
EMPTY=
OVER="two
lines"
export EXPORTED=1
1DIGIT=1
no equals sign
PLAIN=last
OVERLAY_OPTIONS=--datapath userspace
LAST=no newline""".replace("<BLANKS>", " \t")
"""What stands in a settings file: all that systemd and a shell read differently."""


def test_settings_are_read_as_systemd_reads_them(node: Booted) -> None:
    node.write("/etc/default/overlay", HOSTILE_SETTINGS)
    unit = "[Service]\nType=oneshot\nEnvironmentFile=/etc/default/overlay\nExecStart=sh -c 'env -0 >/run/environment'\n"
    node.write("/etc/systemd/system/reader.service", unit)
    node.systemctl("start", "reader")
    theirs = dict(each.split("=", 1) for each in node.read("/run/environment").split("\0") if each)
    ours = parse(node.read("/etc/default/overlay"))
    assert ours.pop("PLAIN") == theirs.pop("PLAIN") == "last"
    assert {name: theirs.get(name) for name in ours} == ours
    assert set(theirs) - set(ours) <= {"PATH", "LANG", "INVOCATION_ID", "JOURNAL_STREAM", "PWD", "SHLVL", "_",
                                       "SYSTEMD_EXEC_PID", "HOME", "SHELL", "USER", "LOGNAME", "container"}  # fmt: skip


def test_tls_files_that_only_etcds_group_may_read_and_that_come_late(make_site: MakeSite) -> None:
    """The agent waits for them, and for etcd with them, and does not end."""
    (node,) = make_site(nodes=1).nodes
    path = "/etc/overlay-tls/ca.pem"
    node.write(
        "/etc/default/overlay", f"FLANNELD_ETCD_ENDPOINTS=https://172.31.0.100:2379\nFLANNELD_ETCD_CAFILE={path}\n"
    )
    node.systemctl("start", "--no-block", "overlay")
    told = partial(node.show, "overlay", "StatusText")
    wait_until(lambda: f"{path}: cannot be read: no such file" in told(), 30, "a status that names the file")
    node.run("cp", "/etc/ssl/certs/ca-certificates.crt", "/etc/new.pem")
    node.run("chown", "nobody:nogroup", "/etc/new.pem")
    node.run("chmod", "0400", "/etc/new.pem")
    node.run("sh", "-c", f"mkdir -m 0700 /etc/overlay-tls && chown nobody /etc/overlay-tls && mv /etc/new.pem {path}")
    wait_until(lambda: path not in told() and "etcd" in told(), 60, "a status about etcd itself, which has no TLS here")
    assert node.show("overlay", "ActiveState") == "activating"
    assert node.show("overlay", "NRestarts") == "0"


@pytest.fixture
def release(wheels: Path, workspace: Path) -> tuple[str, Path]:
    """A later version, as wheels."""
    target = workspace / f"release-{os.getpid()}"
    target.mkdir()
    build_release(target, wheels, "99.0")
    return "99.0", target


def test_a_staged_command_names_the_interpreter_that_it_is_installed_with(stage: Path) -> None:
    """However DESTDIR was spelled, and by its version: what /usr/bin/python3 is may change."""
    launcher = (stage / "opt/overlay/bin/overlay").read_text()
    assert "python=/opt/overlay/bin/python\n" in launcher
    assert str(stage) not in launcher
    links = [path for path in (stage / "opt/overlay/bin").iterdir() if path.is_symlink()]
    assert Path(PYTHON).resolve() in [path.readlink() for path in links]
    assert Path(PYTHON) not in [path.readlink() for path in links]


def test_removal_takes_what_the_settings_named(make_site: MakeSite, wheels: Path) -> None:
    """Another device and another file for the subnet go as well, and /run/flannel with them; and nothing is run."""
    site = make_site(nodes=1)
    (node,) = site.nodes
    own = {
        "FLANNELD_SUBNET_FILE": "/run/flannel/nine.env",
        "FLANNELD_IFACE_REGEX": "$(touch /run/ran)|^eth0",
        "OVERLAY_OPTIONS": "--datapath userspace --device flan9",
    }
    node.write("/etc/default/overlay", settings(site.lab, **own))
    node.systemctl("start", "overlay")
    assert "flan9" in node.run("ip", "route").stdout
    assert "FLANNEL_SUBNET=" in node.read("/run/flannel/nine.env")
    installer(node, "uninstall", wheels)
    assert node.run("test", "-e", "/run/ran", check=False).returncode != 0
    assert "flan9" not in node.run("ip", "link").stdout
    assert "FLANNEL" not in node.run("sh", "-c", "iptables-save -t filter; iptables-save -t nat").stdout
    for path in (
        "/run/flannel", "/run/overlay", "/var/lib/overlay", "/var/lib/private/overlay", "/sys/fs/bpf/overlay",
        "/opt/overlay",
    ):  # fmt: skip
        assert node.run("test", "-e", path, check=False).returncode != 0, path


def test_what_an_older_version_installed_is_removed_while_it_runs_and_twice(make_site: MakeSite, wheels: Path) -> None:
    """It had fewer units, and an operator has thrown the settings away: all else goes all the same."""
    site = make_site(nodes=1)
    (node,) = site.nodes
    node.write("/etc/default/overlay", settings(site.lab))
    node.systemctl("enable", "--now", "overlay")
    node.run("sh", "-c", "rm /etc/default/overlay /usr/local/lib/systemd/system/overlay-api.service")
    node.systemctl("daemon-reload")
    for _ in range(2):
        installer(node, "uninstall", wheels)
        assert node.show("overlay", "ActiveState") == "inactive"
        assert node.show("overlay", "LoadState") == "not-found"
        assert "flannel0" not in node.run("ip", "link").stdout
        for path in ("/opt/overlay", "/run/overlay", "/var/lib/overlay"):
            assert node.run("test", "-e", path, check=False).returncode != 0, path


def test_make_does_not_remove_what_the_package_installed(node: Booted, wheels: Path) -> None:
    node.write("/usr/lib/overlay/install.sh", "")
    refused = installer(node, "uninstall", wheels, check=False)
    node.run("rm", "-r", "/usr/lib/overlay")
    assert refused.returncode != 0
    assert "apt-get remove overlay" in refused.stderr
    assert node.run("overlay", "--version").stdout.startswith("overlay ")


def test_the_tool_stays_until_it_has_cleaned_up(node: Booted, wheels: Path) -> None:
    """Whatever keeps it from that: without the tool nobody could."""
    node.write("/etc/default/overlay", "FLANNELD_DEVICE='no device'\n")
    refused = installer(node, "uninstall", wheels, check=False)
    assert refused.returncode != 0
    assert "no device" in refused.stderr
    assert "FORCE=1" in refused.stderr
    assert node.run("overlay", "--version").stdout.startswith("overlay ")
    assert node.run("test", "-e", "/etc/default/overlay", check=False).returncode == 0
    installer(node, "uninstall", wheels, "FORCE=1")
    assert node.run("test", "-e", "/opt/overlay", check=False).returncode != 0


def test_a_lost_interpreter_is_named_and_mended_by_an_upgrade_that_waits_for_nobody(
    make_site: MakeSite, wheels: Path
) -> None:
    """As an upgrade of the distribution leaves it; and while the agent, restarted, cannot be ready."""
    site = make_site(nodes=1)
    (node,) = site.nodes
    node.systemctl("enable", "--now", "overlay")
    site.etcdctl("del", "/coreos.com/network/config")
    interpreter = str(Path(PYTHON).resolve())
    (link,) = node.run("find", "/opt/overlay/bin", "-lname", interpreter).stdout.split()
    node.run("ln", "-sfn", "/usr/bin/python3.99", link)
    done = node.run("overlay", "status", check=False)
    assert done.returncode == 1
    assert f"installed for, {interpreter}, is not there any more; run: make -C " in done.stderr
    installer(node, "install", wheels)
    assert node.run("overlay", "--version").stdout.startswith("overlay ")
    wait_until(lambda: node.show("overlay", "ActiveState") == "activating", 30, "an agent that waits for its config")
    site.lab.put_config()
    wait_for_agent(node, 60)


def test_upgrade_and_removal_of_the_package(make_site: MakeSite, release: tuple[str, Path]) -> None:
    version, wheels = release
    site = make_site(nodes=1)
    (node,) = site.nodes
    node.systemctl("enable", "--now", "overlay")
    start_docker(node)
    before, docker, agent = subnet(node), node.main_pid("docker"), node.main_pid("overlay")
    node.write("/etc/default/overlay", node.read("/etc/default/overlay") + "# kept\n")

    installer(node, "install", wheels)
    assert overlay(node, "--version").strip() == f"overlay {version}"
    wait_for_agent(node)
    assert node.main_pid("overlay") != agent
    assert node.main_pid("docker") == docker
    assert subnet(node) == before
    assert "# kept" in node.read("/etc/default/overlay")
    assert len(site.leases()) == 1

    told = installer(node, "uninstall", wheels).stdout
    left = node.run(
        "sh",
        "-c",
        "find / -xdev \\( -name '*overlay.service*' -o -name 'overlay.8' -o -name '_overlay' \\) 2>/dev/null",
    ).stdout.split()
    assert [path for path in left if path.startswith(("/opt", "/usr", "/etc"))] == []
    assert node.run("test", "-e", "/opt/overlay", check=False).returncode != 0
    assert "flannel0" not in node.run("ip", "link").stdout
    assert node.run("test", "-e", "/sys/fs/bpf/overlay", check=False).returncode != 0
    assert "FLANNEL" not in node.run("sh", "-c", "iptables-save -t filter; iptables-save -t nat").stdout
    assert node.main_pid("docker") == docker

    # Docker keeps what it has, and what it is told to do about that works and lasts.
    container = start_container(node, "c1", restart="always")
    node.systemctl("restart", "docker")
    assert bridge(node) == before
    advice = [line for line in told.splitlines() if line.startswith("  systemctl ")]
    node.run("sh", "-ec", "\n".join(advice))
    assert bridge(node) == IPv4Interface("172.17.0.1/16")
    node.systemctl("reset-failed", "docker")  # the fourth start within a minute is one more than the unit allows
    node.systemctl("restart", "docker")
    assert bridge(node) == IPv4Interface("172.17.0.1/16")
    wait_until(lambda: container.running, 30, "the container, which Docker starts again")
    assert container.address in IPv4Interface("172.17.0.1/16").network


def test_the_sandbox_lets_the_kernel_datapath_run(node: Booted) -> None:
    """What works without the sandbox is chosen in it: the probe, the programs and their maps need nothing more."""
    script = "from overlay.datapath.kernel.probe import probe; r = probe(); print(r.answer.value, r.reason)"
    outside = node.run("/opt/overlay/bin/python", "-c", script).stdout
    node.systemctl("start", "overlay")
    # Its exit status is about forwarding as well, which Docker turns on when it starts.
    (chosen,) = (line for line in overlay(node, "status", check=False).splitlines() if line.startswith("datapath"))
    assert chosen.split()[1] == ("kernel:" if outside.startswith("yes") else "userspace:"), f"{chosen}; {outside}"


def test_a_failed_upgrade_changes_nothing(node: Booted, wheels: Path) -> None:
    node.systemctl("start", "overlay")
    agent, version = node.main_pid("overlay"), overlay(node, "--version")
    node.run("cp", "-r", str(wheels / "systemd"), "/run/no-wheels")
    node.run("mkdir", "/run/no-wheels/systemd")
    node.run("sh", "-c", "mv /run/no-wheels/*.sh /run/no-wheels/systemd")
    assert installer(node, "install", Path("/run/no-wheels"), check=False).returncode != 0
    assert overlay(node, "--version") == version
    assert node.main_pid("overlay") == agent
    assert node.run("ls", "/opt").stdout.split() == ["overlay"]


def test_man_page_and_completions(node: Booted) -> None:
    done = node.run("man", "--warnings", "-l", "/usr/local/share/man/man8/overlay.8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("agent", "leases", "docker-opts", "reserve"):
        assert f"overlay {command}" in done.stdout
    script = (
        ". /usr/local/share/bash-completion/completions/overlay;"
        "COMP_WORDS=(overlay le) COMP_CWORD=1; _overlay_completion overlay; echo ${COMPREPLY[*]}"
    )
    assert node.run("bash", "-c", script).stdout.split() == ["leases"]
