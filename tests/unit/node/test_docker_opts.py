"""``overlay docker-opts`` against what flannel's mk-docker-opts.sh writes, byte by byte."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from overlay.cli import docker_opts as command
from overlay.errors import NodeError, UsageError
from overlay.linux.routes import Route
from overlay.node.docker import names
from overlay.node.docker.daemon import Told
from overlay.node.docker_opts import Form, render
from overlay.node.subnet_env import parse, subnet_of

SUBNET_ENV = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.52.1/24\nFLANNEL_MTU=1472\nFLANNEL_IPMASQ=false\n"
INDIVIDUAL = 'DOCKER_OPT_BIP="--bip=10.5.52.1/24"\nDOCKER_OPT_IPMASQ="--ip-masq=true"\nDOCKER_OPT_MTU="--mtu=1472"\n'
COMBINED = '=" --bip=10.5.52.1/24 --ip-masq=true --mtu=1472"\n'


@pytest.fixture(autouse=True)
def no_docker_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_OPTS", "DOCKER_OPT_BIP", "FLANNEL_SUBNET", "FLANNEL_MTU", "FLANNEL_IPMASQ"):
        monkeypatch.delenv(name, raising=False)


class Node:
    """A subnet.env and the command run on it."""

    def __init__(self, folder: Path) -> None:
        self.env = folder / "subnet.env"
        self.out = folder / "docker.env"
        self.env.write_text(SUBNET_ENV)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(command.docker_opts, ["-f", str(self.env), "-d", str(self.out), *arguments])


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ([], INDIVIDUAL + "DOCKER_OPTS" + COMBINED),
        (["-i", "-c"], INDIVIDUAL + "DOCKER_OPTS" + COMBINED),
        (["-ic"], INDIVIDUAL + "DOCKER_OPTS" + COMBINED),
        (["-i"], INDIVIDUAL),
        (["-c"], "DOCKER_OPTS" + COMBINED),
        (["-c", "-k", "OPTS"], "OPTS" + COMBINED),
        (["-ckOPTS"], "OPTS" + COMBINED),
        (["-m", "-c"], 'DOCKER_OPTS=" --bip=10.5.52.1/24 --mtu=1472"\n'),
        (["-c", "operand", "-i"], "DOCKER_OPTS" + COMBINED),
    ],
)
def test_options_choose_the_form(node: Node, arguments: list[str], written: str) -> None:
    result = node.run(*arguments)
    assert (result.exit_code, result.output) == (0, "")
    assert node.out.read_text() == written
    assert node.out.stat().st_mode & 0o777 == 0o644


NAMES = (
    "--dns=169.254.20.10 --dns-search=default.svc.cluster.local --dns-search=svc.cluster.local "
    "--dns-search=cluster.local --dns-opt=ndots:5"
)


def test_containers_ask_for_names_where_that_is_asked_for(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.run("-i", "--names", "169.254.20.10")
    assert node.out.read_text() == f'{INDIVIDUAL}DOCKER_OPT_NAMES="{NAMES}"\n'
    monkeypatch.setenv("OVERLAY_DOCKER_NAMES", "169.254.20.10")
    node.run("-c", "--names-namespace", "shop")
    words = NAMES.replace("=default.", "=shop.")
    assert node.out.read_text() == f'DOCKER_OPTS=" --bip=10.5.52.1/24 --ip-masq=true --mtu=1472 {words}"\n'


@pytest.mark.parametrize(
    ("file", "left"),
    [
        ({"dns": ["192.0.2.1"]}, NAMES.removeprefix("--dns=169.254.20.10 ")),
        ({"dns-search": []}, "--dns=169.254.20.10 --dns-opt=ndots:5"),
        ({"dns": [], "dns-search": [], "dns-opts": []}, ""),
    ],
)
def test_what_dockers_file_says_is_not_said_again(file: dict[str, list[str]], left: str) -> None:
    said = names.options("169.254.20.10", "cluster.local", "default", Told(file=file))
    assert said.get("DOCKER_OPT_NAMES", "") == left


@pytest.mark.parametrize("wrong", [["--names", "x"], ["--names", "fe80::1"], ["--names-domain", 'a"b'],
                                   ["--names-namespace", "A B"]])  # fmt: skip
def test_what_is_no_server_or_no_name_is_refused(node: Node, wrong: list[str]) -> None:
    result = node.run("--names", "169.254.20.10", *wrong)
    assert isinstance(result.exception, UsageError)
    assert not node.out.exists()


def test_when_the_agent_masquerades_docker_does_not(node: Node) -> None:
    node.env.write_text(SUBNET_ENV.replace("false", "true"))
    node.run("-i")
    assert 'DOCKER_OPT_IPMASQ="--ip-masq=false"' in node.out.read_text()


def test_an_ipmasq_that_is_neither_is_refused_and_the_output_kept(node: Node) -> None:
    node.run()
    before = node.out.read_text()
    node.env.write_text(SUBNET_ENV.replace("false", "maybe"))
    result = node.run()
    assert isinstance(result.exception, NodeError)
    assert "Invalid value of FLANNEL_IPMASQ: maybe" in str(result.exception)
    assert node.out.read_text() == before
    assert node.run("-m").exit_code == 0


def test_without_a_subnet_file_the_options_are_empty(node: Node) -> None:
    node.env.unlink()
    assert node.run().exit_code == 0
    assert node.out.read_text() == 'DOCKER_OPTS=""\n'


def test_what_the_environment_has_comes_first(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_OPTS", "--debug")
    monkeypatch.setenv("DOCKER_OPT_LOG", "--log-level=warn")
    node.run("-c")
    assert node.out.read_text() == (
        'DOCKER_OPTS="--debug  --bip=10.5.52.1/24 --ip-masq=true --log-level=warn --mtu=1472"\n'
    )


@pytest.mark.parametrize("arguments", [["-x"], ["-h"], ["-?"], ["-f"], ["-k"], ["--nonsense"]])
def test_wrong_use_prints_the_usage_and_ends_with_1(node: Node, arguments: list[str]) -> None:
    result = CliRunner().invoke(command.docker_opts, arguments)
    assert result.exit_code == 1
    assert "Usage:" in result.stderr
    assert not node.out.exists()


def test_a_route_via_another_node_to_our_subnet_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    routes = [
        Route(IPv4Network("10.5.0.0/16"), 7),
        Route(IPv4Network("10.5.52.0/24"), 2, gateway=IPv4Address("172.31.0.9")),
    ]

    class Routes:
        def __enter__(self) -> Routes:
            return self

        def __exit__(self, *_: object) -> None: ...

        def routes(self) -> list[Route]:
            return routes

    monkeypatch.setattr(command, "Netlink", Routes)
    result = node.run()
    assert result.exit_code == 1
    assert result.stderr == "Your routing table already contains the subnet: 10.5.52.0/24 via 172.31.0.9\n"
    assert node.out.exists()
    routes.pop()
    assert node.run().exit_code == 0


def test_output_into_a_link_or_device_is_written_through(node: Node, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    node.out.symlink_to(target)
    node.run("-i")
    assert node.out.is_symlink()
    assert target.read_text() == INDIVIDUAL
    assert CliRunner().invoke(command.docker_opts, ["-d", "/dev/null"]).exit_code == 0


def test_quotes_comments_and_nonsense_in_the_file() -> None:
    text = 'FLANNEL_MTU="1450" # bytes\n# a comment\n  A=\'b c\'\nnonsense\n1=2\nBROKEN="x\nEMPTY=\n'
    assert parse(text) == {"FLANNEL_MTU": "1450", "A": "b c", "EMPTY": ""}
    assert parse("\ufeffexport A=1\r\nexport  B='2'\r\nexports C=3\nexport D\n") == {"A": "1", "B": "2"}


def test_a_missing_or_broken_subnet_is_none() -> None:
    assert subnet_of({}) is None
    assert subnet_of({"FLANNEL_SUBNET": "10.5.52"}) is None
    assert subnet_of({"FLANNEL_SUBNET": "10.5.52.1/24"}) == IPv4Network("10.5.52.0/24")


def test_every_form_has_the_same_options_in_the_same_order() -> None:
    variables = parse(SUBNET_ENV)
    for individual, combined in itertools.product((False, True), repeat=2):
        text = render(variables, Form(individual, combined))
        words = [word for word in ("--bip", "--ip-masq", "--mtu") if word in text]
        assert words == ["--bip", "--ip-masq", "--mtu"]
        assert text.index("--bip") < text.index("--ip-masq") < text.index("--mtu")
