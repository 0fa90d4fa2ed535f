"""``overlay docker-opts``: flannel's mk-docker-opts.sh, with its options, its output and its exit status."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import click

from overlay.errors import FileError, NodeError, UsageError
from overlay.linux.files import read_regular, write_atomically
from overlay.linux.netlink import Netlink
from overlay.node.docker import program
from overlay.node.docker.daemon import Told, read_config
from overlay.node.docker.names import options as names_options
from overlay.node.docker.needs import Needs, needs
from overlay.node.docker_opts import Form, render
from overlay.node.subnet_env import parse, subnet_of
from overlay.text import excerpt

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
"""Of a domain or a namespace, as far as the file's quotes and Docker's command line are concerned."""


class _ShellCommand(click.Command):
    """Ends as a script with getopts does: wrong use prints the usage and is exit status 1; operands are ignored."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            click.echo(f"{error.format_message()}\n{self.get_help(ctx)}", err=True)
            ctx.exit(1)


def _usage(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(1)


@click.command(
    "docker-opts",
    cls=_ShellCommand,
    context_settings={"help_option_names": ["--help"], "allow_extra_args": True, "allow_interspersed_args": False},
)
@click.option(
    "-f",
    "subnet_file",
    metavar="FILE",
    default="/run/flannel/subnet.env",
    show_default=True,
    help="Written by the agent.",
)
@click.option(
    "-d",
    "output",
    metavar="FILE",
    default="/run/docker_opts.env",
    show_default=True,
    help="To be read by Docker's unit.",
)
@click.option("-i", "individual", is_flag=True, help="One variable an option, as DOCKER_OPT_MTU=1472.")
@click.option("-c", "combined", is_flag=True, help="All options in one variable. Neither -i nor -c means both.")
@click.option("-k", "key", metavar="NAME", default="DOCKER_OPTS", show_default=True, help="Name of that variable.")
@click.option("-m", "without_ip_masq", is_flag=True, help="No --ip-masq, for an old Docker.")
@click.option(
    "--dockerd",
    metavar="PROGRAM",
    default="",
    help="Also what this Docker needs besides, by its version; by default only what the script writes.",
)
@click.option(
    "--names",
    metavar="IP",
    default="",
    envvar="OVERLAY_DOCKER_NAMES",
    help="Also that containers ask this server for names; by default nothing of it. `overlay services` answers at "
    "169.254.20.10.",
)
@click.option(
    "--names-domain",
    metavar="DOMAIN",
    default="cluster.local",
    show_default=True,
    envvar="OVERLAY_DOCKER_NAMES_DOMAIN",
    help="With --names: the cluster's domain.",
)  # fmt: skip
@click.option(
    "--names-namespace", metavar="NAME", default="default", show_default=True, envvar="OVERLAY_DOCKER_NAMES_NAMESPACE",
    help="With --names: where short names are looked for; a container may say otherwise, by docker run --dns-search.",
)  # fmt: skip
@click.option("-h", "-?", is_flag=True, expose_value=False, is_eager=True, callback=_usage, hidden=True)
def docker_opts(
    *,
    subnet_file: str,
    output: str,
    individual: bool,
    combined: bool,
    key: str,
    without_ip_masq: bool,
    dockerd: str,
    names: str,
    names_domain: str,
    names_namespace: str,
) -> None:
    """Write Docker's options for this node's subnet, as mk-docker-opts.sh does.

    With --names, or OVERLAY_DOCKER_NAMES, containers ask `overlay services` of this node for names.

    Without a subnet file the options are empty, and Docker chooses its own addresses. The exit status is 1 if a route
    via another node leads to this node's subnet: then two nodes have the same.
    """
    variables = {**os.environ, **parse(_read(Path(subnet_file)))}
    form = Form(individual, combined, key, ip_masq=not without_ip_masq)
    subnet = subnet_of(variables)
    more = _needs(dockerd, variables) if dockerd and subnet is not None else Needs()
    given = {name: value for name, value in variables.items() if name not in more.left_out}
    for name, why in more.left_out.items():
        print(f"{name} is left out: {why}", file=sys.stderr)
    named = _names(names, names_domain, names_namespace, variables) if names else {}
    _write(Path(output), render({**given, **more.options, **named}, form, more.environment))
    if subnet is not None and (route := _foreign_route(subnet)) is not None:
        print(f"Your routing table already contains the subnet: {route}", file=sys.stderr)
        raise click.exceptions.Exit(1)


def _needs(dockerd: str, variables: Mapping[str, str]) -> Needs:
    """What the Docker that is going to be started needs besides."""
    path = program.find(dockerd)
    abilities = program.ask(path) if path is not None else None
    if abilities is None:
        print(f"{dockerd}: does not tell its version; nothing is added for it", file=sys.stderr)
        return Needs()
    return needs(abilities, _told(variables))


def _names(server: str, domain: str, namespace: str, variables: Mapping[str, str]) -> Mapping[str, str]:
    """What makes containers ask ``server`` for names. Raises UsageError for what is no address or no name."""
    try:
        address = IPv4Address(server)
    except ValueError as error:
        raise UsageError("is no IPv4 address", about=f"--names {excerpt(server)}", remedy="169.254.20.10") from error
    for flag, name in (("--names-domain", domain), ("--names-namespace", namespace)):
        if not _NAME.fullmatch(name):
            raise UsageError("is no DNS name", about=f"{flag} {excerpt(name)}")
    return names_options(str(address), domain, namespace, _told(variables))


def _told(variables: Mapping[str, str]) -> Told:
    given = tuple(variables.get("DOCKER_OPTS", "").split())
    return Told(given, read_config(given))


def _read(path: Path) -> str:
    try:
        return read_regular(path).decode()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise FileError(error.strerror or str(error), about=f"cannot read {path}") from error
    except UnicodeDecodeError as error:
        raise FileError("is not UTF-8", about=f"cannot read {path}") from error


def _write(path: Path, content: str) -> None:
    """Replaces a regular file as a whole; writes into anything else (/dev/stdout, a pipe)."""
    if path.exists() and not path.is_file():
        try:
            path.write_text(content, encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise FileError(error.strerror or str(error), about=f"cannot write {path}") from error
    else:
        write_atomically(path, content)


def _foreign_route(subnet: IPv4Network) -> str | None:
    """A route to exactly ``subnet`` through a gateway, as text."""
    with suppress(NodeError), Netlink() as netlink:
        for route in netlink.routes():
            if route.destination == subnet and route.gateway is not None:
                return f"{subnet} via {route.gateway}"
    return None
