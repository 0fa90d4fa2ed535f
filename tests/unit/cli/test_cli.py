"""The command line called wrongly: one line on standard error, and status 2; nothing is started."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import redirect_stderr
from io import StringIO
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from overlay.agent.settings import AgentSettings
from overlay.cli.main import run
from overlay.cli.tables import show, table
from overlay.control.leases.allocator import Identity, lease_of
from overlay.control.schema.lease import format_lease_value, parse_lease_value
from overlay.lab.cluster import Lab
from overlay.lab.shell import overlay_command
from overlay.model import Advertisement

UDP = '{"Network":"10.0.0.0/16","Backend":{"Type":"udp"}}'


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("agent", "--nonsense"), "No such option '--nonsense'"),
        (("agent", "-nonsense=1"), "No such option '--nonsense'"),
        (("agent", "--lease-ttl=soon"), "'soon' is not a valid integer"),
        (("agent", "--subnet-lease-renew-margin=1440"), "1440 is not in the range"),
        (("agent", "--iface-regex=("), "--iface-regex ("),
        (("agent", "--public-ip=300.1.1.1"), "--public-ip 300.1.1.1: is no IPv4 address"),
        (("agent", "--public-ipv6=10.0.0.1"), "--public-ipv6 10.0.0.1: is no IPv6 address"),
        (("agent", "--etcd-endpoints=ftp://x"), "neither http nor https"),
        (("agent", "--etcd-endpoints="), "endpoint"),
        (("agent", "--device=much-too-long-a-name"), "is no interface name"),
        (("agent", "--device=flannel%d"), "is no interface name"),
        (("agent", "--device=.."), "is no interface name"),
        (("agent", "--device=a b"), "is no interface name"),
        (("cleanup", "--device=x/../../y"), "is no interface name"),
        (("agent", "--device"), "overlay agent: Option '--device' requires an argument; see overlay agent --help"),
        (("agent", "--mtu=67"), "67 is not in the range"),
        (("agent", "--healthz-ip=local host"), "--healthz-ip local host: is no IP address, nor a name"),
        (("agent", "--healthz-ip=10.0.0.256"), "--healthz-ip 10.0.0.256: is no IP address, nor a name"),
        (("agent", "--healthz-ip="), "is no IP address, nor a name"),
        (("agent", "--healthz-ip=a..b"), "is no IP address, nor a name"),
        (("agent", f"--healthz-ip={'a' * 64}.b"), "is no IP address, nor a name"),
        (("agent", "--subnet-file="), "--subnet-file: is empty"),
        (("agent", "--state-dir="), "--state-dir: is empty"),
        (("cleanup", "--subnet-file="), "--subnet-file: is empty"),
        (("capture", "--iface=lo", "--timeout=nan"), "nan is no number"),
        (("capture", "--iface=lo", "--timeout=inf"), "inf is not in the range"),
        (("capture", "--read=/tmp/a.pcap", "--write=/tmp/../tmp/a.pcap"), "is the file that is read"),
        (("config", "check", "@/dev/zero"), "cannot read /dev/zero: has more than"),
        (("agent", f"--node-id={'x' * 129}"), "must have at most 128 characters"),
        (("agent", "--node-id=a\x07b"), "--node-id a·b: must be printable"),
        (("agent", "--node-id= "), "must be printable, without spaces around it"),
        (("agent", "--node-id=caf\udce9"), "--node-id caf\ufffd: is not UTF-8; write it in UTF-8"),
        (("leases", f"--node-id={'x' * 129}"), "must have at most 128 characters"),
        (("release", "--node-id=caf\udce9"), "is not UTF-8"),
        (("agent", "--etcd-prefix=/caf\udce9"), "--etcd-prefix /caf\ufffd: is not UTF-8"),
        (("config", "show", "--etcd-prefix=/caf\udce9"), "is not UTF-8"),
        (("agent", "--etcd-username=caf\udce9", "--etcd-password=x"), "is not UTF-8"),
        (("agent", "--etcd-username=x", "--etcd-password=caf\udce9"), "--etcd-password: is not UTF-8"),
        (("agent", "--public-ip=0.0.0.0"), "--public-ip 0.0.0.0: means no address"),
        (("agent", "--public-ip=0.1.2.3"), "means no address"),
        (("agent", "--public-ip=224.0.0.5"), "is many nodes' address"),
        (("agent", "--public-ip=255.255.255.255"), "is many nodes' address"),
        (("agent", "--public-ip=127.0.0.1"), "is a loopback address"),
        (("agent", "--public-ipv6=::"), "--public-ipv6 ::: means no address"),
        (("agent", "--public-ipv6=ff02::1"), "is many nodes' address"),
        (("agent", "--public-ipv6=fe80::1%eth0"), "has a zone"),
        (("agent", "--public-ipv6=::ffff:1.2.3.4"), "is an IPv4 address written as IPv6"),
        (("agent", "--iface=127.0.0.1"), "--iface 127.0.0.1: is a loopback address"),
        (("agent", "--iface=0.0.0.0"), "--iface 0.0.0.0: means no address"),
        (("agent", "--lease-ttl=9000000001"), "9000000001 is not in the range"),
        (("reserve", "10.0.0.0/24", "--public-ip=224.0.0.5"), "--public-ip 224.0.0.5: is many nodes' address"),
        (("reserve", "10.0.0.0/24", "--public-ip=x"), "--public-ip x: is no IPv4 address"),
        (("agent", "--use-multi-cluster-cidr", "--public-ip=x"), "--public-ip x: is no IPv4 address"),
        (("agent", "--kube-subnet-mgr"), "there is no Kubernetes support"),
        (("agent", "--datapath=magic"), "'magic' is not one of"),
        (("agent", "surplus"), "surplus"),
        (("nothing",), "No such command 'nothing'"),
        (("config", "check", "@/nonexistent"), "cannot read /nonexistent"),
        (("config", "check", "cfg.json"), "cfg.json: is no JSON object; to read a file: @cfg.json"),
        (("config", "set", "cfg.json"), "to read a file: @cfg.json"),
        (("reserve", "10.0.0.1/24", "--public-ip=1.2.3.4"), "has host bits set"),
        (("reserve", "10.0.0.0/24"), "--public-ip"),
    ],
)
def test_called_wrongly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], complaint: str
) -> None:
    for entry in ("overlay.cli.agent.run", "overlay.cli.cleanup.may_change_network"):
        monkeypatch.setattr(entry, lambda *_: pytest.fail("started"))
    assert run(list(arguments)) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_a_tls_file_that_is_not_there_is_no_wrong_call(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It may come: systemd tries again after 1, and not after 2."""
    missing = tmp_path / "missing.pem"
    assert run(["leases", f"--etcd-cafile={missing}", "--etcd-endpoints=https://127.0.0.1:1"]) == 1
    assert f"--etcd-cafile {missing}: cannot be read: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["/dev/zero", "pipe"])
def test_what_has_no_end_is_no_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, path: str) -> None:
    """Nor what nobody writes to."""
    if path == "pipe":
        os.mkfifo(path := str(tmp_path / "pipe"))
    assert run(["leases", f"--etcd-cafile={path}", "--etcd-endpoints=https://127.0.0.1:1"]) == 1
    assert f"--etcd-cafile {path}: cannot be read: is no regular file" in capsys.readouterr().err
    assert run(["docker-opts", "-f", path, "-d", str(tmp_path / "out")]) == 1
    assert f"cannot read {path}: is no regular file" in capsys.readouterr().err


HOSTILE = st.text(max_size=140) | st.sampled_from(["", "\udce9", "é", "x" * 128, "x" * 129, "0.0.0.0", "a\nb", "a\0b"])
IPV4 = st.builds(str, st.ip_addresses(v=4)) | st.builds(str, st.ip_addresses(v=4, network="224.0.0.0/3")) | HOSTILE
IPV6 = st.builds(str, st.ip_addresses(v=6)) | HOSTILE


@given(node_id=HOSTILE, public_ip=IPV4, public_ipv6=IPV6, ttl=st.integers(-1, 1 << 64) | st.just(86400))
@example(node_id="x" * 129, public_ip="", public_ipv6="", ttl=86400)
@example(node_id="", public_ip="224.0.0.5", public_ipv6="", ttl=86400)
@example(node_id="", public_ip="", public_ipv6="fe80::1%eth0", ttl=86400)
def test_what_the_flags_put_into_a_lease_every_reader_takes(
    node_id: str, public_ip: str, public_ipv6: str, ttl: int
) -> None:
    """Flags that end in etcd are refused with status 2, or make a lease that reads back as it was meant."""
    started: list[AgentSettings] = []

    async def start(settings: AgentSettings, notices: tuple[str, ...] = ()) -> None:
        started.append(settings)

    flags = {"node-id": node_id, "public-ip": public_ip, "public-ipv6": public_ipv6, "lease-ttl": str(ttl)}
    with pytest.MonkeyPatch.context() as patched, redirect_stderr(StringIO()):
        patched.setattr("overlay.cli.agent.run", start)
        patched.setattr("overlay.cli.agent.set_up", lambda *_, **__: None)
        status = run(["agent", *(f"--{name}={value}" for name, value in flags.items())])
    assert status == (0 if started else 2)
    for settings in started:
        address = settings.selection.public_ip or IPv4Address("172.31.0.1")
        identity = Identity(settings.node_id, address, settings.public_ipv6)
        lease = lease_of(identity, Advertisement("udp"), IPv4Network("10.0.5.0/24"), None)
        assert parse_lease_value(format_lease_value(lease), lease.subnet) == lease
        assert 5 <= settings.lease_ttl <= 9_000_000_000


@pytest.mark.parametrize(
    ("arguments", "status", "shown"),
    [
        (["-help"], 0, "Usage: overlay [OPTIONS]"),
        (["agent", "-help"], 0, "Usage: overlay agent [OPTIONS]"),
        (["config", "set", "-help"], 0, "Usage: overlay config set [OPTIONS]"),
        ([], 2, "Usage: overlay [OPTIONS]"),
        (["config"], 2, "Usage: overlay config [OPTIONS]"),
    ],
)
def test_help_is_printed_as_it_is(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, shown: str
) -> None:
    """Asked for, on standard output; in place of a command that is missing, on standard error."""
    assert run(arguments) == status
    printed = capsys.readouterr()
    text, silent = (printed.err, printed.out) if status else (printed.out, printed.err)
    assert text.startswith(shown)
    assert text.count("\n") > 5
    assert silent == ""


@pytest.mark.parametrize(("length", "rule"), [(17, "must be at least 18"), (-1, "must be a whole number, 0 or more")])
def test_a_config_that_breaks_a_rule_fails_the_check(
    capsys: pytest.CaptureFixture[str], length: int, rule: str
) -> None:
    assert run(["config", "check", f'{{"Network":"10.0.0.0/16","SubnetLen":{length}}}']) == 1
    error = capsys.readouterr().err
    assert f"SubnetLen = {length}" in error
    assert rule in error


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ('{"Network":"10.0.0.0/16","SubnetLen":"24"}', 'SubnetLen = "24": must be a whole number'),
        ('{"Network":"10.0.0.0/16","SubnetLen":true}', "SubnetLen = true: must be a whole number"),
        ('{"Network":"10.0.0.0/16","SubnetLen":24.0}', "SubnetLen = 24.0: must be a whole number"),
        ('{"Network":"10.0.0.0/16","EnableIPv4":"true"}', 'EnableIPv4 = "true": must be true or false'),
        ('{"Network":10}', "Network = 10: must be"),
    ],
)
def test_a_value_of_the_wrong_type_is_shown_with_its_type(
    capsys: pytest.CaptureFixture[str], config: str, told: str
) -> None:
    assert run(["config", "check", config]) == 1
    assert told in capsys.readouterr().err


def test_a_misspelt_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    notices: list[str] = []

    async def start(settings: AgentSettings, told: tuple[str, ...] = ()) -> None:
        assert settings.random_fully is False
        assert settings.health_address == ("localhost", 8080)
        notices.extend(told)

    monkeypatch.setattr("overlay.cli.agent.run", start)
    monkeypatch.setattr("overlay.cli.agent.set_up", lambda *_, **__: None)
    monkeypatch.setenv("FLANNELD_IP_MASK", "true")
    monkeypatch.setenv("FLANNELD_IFACE", "eth0")
    monkeypatch.setenv("FLANNELD_SOMETHING_ELSE", "x")
    flags = ["--ip-masq-fully-random-disable", "--healthz-ip=localhost", "--healthz-port=8080"]
    assert run(["agent", "--vmodule=x", *flags]) == 0
    assert notices[1:] == [
        "FLANNELD_IP_MASK has no effect: no flag takes it; is FLANNELD_IP_MASQ meant?",
        "FLANNELD_SOMETHING_ELSE has no effect: no flag takes it",
    ]


@pytest.mark.parametrize(
    ("config", "warning"),
    [
        (UDP, ""),
        ('{"Network":"10.0.0.0/16","Backend":{"Type":"host-gw"}}', ""),
        ('{"Network":"10.0.0.0/16","Backend":{"Type":"vxlan"}}', "Backend.Type 'vxlan'"),
        (
            '{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48","Backend":{"Type":"udp"}}',
            "EnableIPv4 false",
        ),
    ],
)
def test_a_config_for_flanneld_alone_passes_with_a_warning(
    capsys: pytest.CaptureFixture[str], config: str, warning: str
) -> None:
    assert run(["config", "check", config]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)
    assert warning in printed.err
    assert bool(warning) == bool(printed.err)


@pytest.mark.parametrize("command", ["check", "set"])
@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"Port": 70000}, "Backend.Port = 70000: must be a whole number from 1 to 65535"),
        ({"Port": "8285"}, "Backend.Port = 8285"),
        ({"Port": True}, "Backend.Port = "),
        ({"MTU": 10}, "Backend.MTU = 10"),
    ],
)
def test_a_backends_option_that_no_node_could_run_is_an_error(
    capsys: pytest.CaptureFixture[str], command: str, options: dict[str, object], rule: str
) -> None:
    """Before anything is written: etcd is not asked."""
    text = json.dumps({"Network": "10.0.0.0/16", "Backend": {"Type": "udp", **options}})
    assert run(["config", command, text]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert rule in printed.err
    assert "overlay config set" in printed.err


def test_a_good_config_is_shown_with_its_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "check", '{"network":"10.3.0.0/16"}']) == 0
    shown = capsys.readouterr().out
    assert '"SubnetMin": "10.3.1.0"' in shown
    assert '"SubnetMax": "10.3.255.0"' in shown


@pytest.mark.parametrize("arguments", [["--version"], ["-version"], ["agent", "-version"]])
def test_version(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(arguments) == 0
    assert capsys.readouterr().out.startswith("overlay 0.")


def test_commands_take_the_agents_variables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("overlay.cli.cleanup.may_change_network", lambda: pytest.fail("started"))
    monkeypatch.setenv("FLANNELD_STATE_DIR", str(tmp_path / "second"))
    assert run(["status"]) == 1
    assert f"{tmp_path}/second: no agent runs" in capsys.readouterr().err
    monkeypatch.setenv("FLANNELD_DEVICE", "flannel%d")
    assert run(["cleanup"]) == 2
    assert "--device 'flannel%d'" in capsys.readouterr().err


def test_an_etcd_that_is_not_there_comes_with_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["leases", "--etcd-endpoints=http://127.0.0.1:1"]) == 1
    assert "connection refused; is etcd running there? check --etcd-endpoints" in capsys.readouterr().err


def test_tables_in_a_pipe_end_where_their_text_ends(capsys: pytest.CaptureFixture[str]) -> None:
    listed = table("SUBNET", "NODE")
    listed.add_row("10.0.58.0/24", "a")
    listed.add_row("10.0.59.0/24", "a-longer-one")
    show(listed)
    assert capsys.readouterr().out == ("SUBNET        NODE\n10.0.58.0/24  a\n10.0.59.0/24  a-longer-one\n")


def test_a_lab_is_checked_before_anything_is_built(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Lab, "up", lambda *_, **__: pytest.fail("built"))
    assert run(["lab", "up", f"--state={tmp_path}", '--config={"SubnetLen": 17}']) == 1
    assert "SubnetLen = 17" in capsys.readouterr().err


def test_a_command_in_a_lab_finds_overlay_as_it_is_under_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[Any] = []
    loaded = SimpleNamespace(machine=lambda _: SimpleNamespace(namespace="lab-n1"))
    monkeypatch.setattr(Lab, "load", lambda *_: loaded)
    monkeypatch.setattr(os, "execvpe", lambda *arguments: started.append(arguments))
    monkeypatch.setenv("PATH", "/usr/bin")
    run(["lab", "exec", f"--state={tmp_path}", "n1", "--", "overlay", "--version"])
    ((_, argv, environment),) = started
    assert argv[-2:] == ["overlay", "--version"]
    assert environment["PATH"].split(":") == [str(Path(overlay_command()).parent), "/usr/bin"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["--version"], 0), (["--help"], 0), (["config", "check", UDP], 0), (["config", "check", "{"], 1)],
)
def test_a_reader_who_has_gone_is_no_error(arguments: list[str], status: int) -> None:
    """However little there is to read, and whatever the exit status says besides."""
    theirs, ours = os.pipe()
    os.close(theirs)
    try:
        done = subprocess.run([overlay_command(), *arguments], stdout=ours, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(ours)
    assert done.returncode == status
    assert b"Broken" not in done.stderr


COMMANDS = [["--version"], ["agent", "--help"], ["config", "check", UDP], ["status"], ["leases"], ["kubeconfig"]]


@pytest.mark.parametrize("closed", ["0", "1", "2", "012"])
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_closed_streams_are_no_error(arguments: list[str], closed: str) -> None:
    """As some supervisors start their programs. No descriptor of ours may take the number of one of them."""
    close = " ".join(f"{number}>&-" for number in closed)
    done, usual = (
        subprocess.run(["sh", "-c", f'exec "$@" {text}', "sh", overlay_command(), *arguments],
                       capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        for text in (close, "")
    )  # fmt: skip
    assert done.returncode == usual.returncode
    assert "1" in closed or done.stdout == usual.stdout
    assert "2" in closed or done.stderr == usual.stderr


@pytest.mark.parametrize("arguments", [["--version"], ["agent", "--help"], ["config", "check", UDP]], ids=" ".join)
def test_output_for_which_there_is_no_room_is_said(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [overlay_command(), *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.stderr == "overlay: standard output: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
@pytest.mark.parametrize(
    "arguments", [["agent", "--help"], ["status", "--state-dir=/\u0431\udce9"]], ids=["help", "path"]
)
def test_any_encoding_of_the_terminal_will_do(arguments: list[str], encoding: str) -> None:
    done = subprocess.run(
        [overlay_command(), *arguments],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert done.returncode == (1 if arguments[0] == "status" else 0)
    assert b"unexpected" not in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["check", "set"])
def test_a_config_that_is_no_utf_8_is_a_wrong_config(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run(["config", command, '{"Network":"10.0.0.0/16","caf\udce9":1}']) in (0, 1)
    assert "unexpected" not in capsys.readouterr().err


def test_empty_interfaces_ask_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """``--iface=$IFACE``: flanneld takes the default route's."""
    started: list[AgentSettings] = []

    async def start(settings: AgentSettings, notices: tuple[str, ...] = ()) -> None:
        started.append(settings)

    monkeypatch.setattr("overlay.cli.agent.run", start)
    assert run(["agent", "--iface=", "--iface-regex=", "--iface=eth0", "--iface-can-reach="]) == 0
    assert (started[0].selection.names, started[0].selection.patterns) == (("eth0",), ())
