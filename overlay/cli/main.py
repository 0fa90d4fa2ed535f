"""Entry point: finds the subcommand, and turns every error into one line and an exit status.

Exit status: 0 done · 1 failed · 2 called wrongly · 130 interrupted.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from overlay import __version__
from overlay.cli import streams
from overlay.cli.goflags import normalise
from overlay.errors import OverlayError, first_of

_COMMANDS = {
    "agent": ("overlay.cli.agent:agent", "Run the agent of this node."),
    "api": ("overlay.cli.api:api", "Serve Kubernetes' API for Services and pods on loopback."),
    "capture": ("overlay.cli.capture:capture", "Decode the tunnel's packets as they pass."),
    "cleanup": ("overlay.cli.cleanup:cleanup", "Remove all that agent and services daemon made on this node."),
    "config": ("overlay.cli.config:config", "Show, set or check the network's config in etcd."),
    "dns": ("overlay.cli.dns:dns", "Explain what a name of the cluster answers."),
    "docker-opts": ("overlay.cli.docker_opts:docker_opts", "Write Docker's options, as mk-docker-opts.sh does."),
    "env": ("overlay.cli.env:env", "Print Services as variables, for docker run --env-file."),
    "kubeconfig": ("overlay.cli.kubeconfig:kubeconfig", "Print the kubeconfig of this machine's API."),
    "kubectl": ("overlay.cli.kubectl:kubectl", "Run kubectl against an API that lives as long as the command."),
    "lab": ("overlay.cli.lab:lab", "Build a cluster in network namespaces on this machine."),
    "leases": ("overlay.cli.leases:leases", "Print the subnet leases in etcd."),
    "services": ("overlay.cli.services:services", "Run the services daemon: containers as pods, Services, names."),
    "status": ("overlay.cli.status:status", "Show what this node's agent says of itself."),
    "release": ("overlay.cli.reservations:release", "Give a subnet back."),
    "reserve": ("overlay.cli.reservations:reserve", "Lease a subnet to a public IP for ever."),
}
"""Name → (where it is, what it does): help needs no import of any of them."""


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        if cmd_name == "agent":
            from overlay.daemon.lean import import_without_openssl  # noqa: PLC0415

            import_without_openssl()
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        foreign = command is None or command.context_settings.get("ignore_unknown_options")
        return name, command, rest if foreign or command is None else normalise(command, rest)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="overlay %(version)s")
@click.option(
    "--settings",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=lambda _context, _option, path: _take_settings(path),
    help="Take flags from the service's settings, /etc/default/overlay, as systemd reads them.",
)
def cli() -> None:
    """An overlay network for containers, compatible with flannel.

    Each node leases a subnet from etcd and sends its containers' packets to the other nodes, so that every container
    reaches every other without NAT. On it stand, where wanted, Kubernetes' Services and names for plain Docker.
    """


def _take_settings(path: Path | None) -> None:
    """What the file sets and the environment does not, for the command that follows."""
    if path is None:
        return
    from overlay.cli import settings  # noqa: PLC0415

    variables = settings.read(path)
    if settings.OPTIONS in variables:
        from overlay.cli.agent import agent  # noqa: PLC0415  (large, and only its flags are of use)

        variables = settings.effective(variables, agent)
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits. Set OVERLAY_DEBUG=1 to see tracebacks of unexpected errors."""
    streams.mend()
    words = sys.argv[1:] if arguments is None else list(arguments)
    status = run(words)
    if "agent" in words:
        # All that it held has been given back, and its successor waits: to take the interpreter and gRPC to pieces is a
        # fifth of a restart.
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Runs one command; returns its exit status."""
    status = _carry_out(arguments)
    failure = streams.flush()
    return status if failure is None else status or _fail(failure, 1)


def _carry_out(arguments: list[str]) -> int:
    # The agent sends the log somewhere; any other command says what matters itself.
    logging.getLogger("overlay").addHandler(logging.NullHandler())
    if arguments[:1] in (["-help"], ["-version"]):
        arguments = [f"-{arguments[0]}", *arguments[1:]]
    try:
        status = cli.main(arguments, prog_name="overlay", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return 2
    except click.UsageError as error:
        # The parser knows no context when an option lacks its value.
        command = error.ctx.command_path if error.ctx else " ".join(["overlay", *arguments[:1]])
        message = error.format_message().replace("\n", " ").rstrip(".")
        return _fail(f"{message}; see {command} --help", 2, command)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except SystemExit as end:
        if end.code != 1:  # a signal's: overlay.cli.lab
            raise
        # click's own way to end, where the reader has gone while the command ran.
        streams.forget_the_reader()
        return 0
    except OverlayError as error:
        return _fail(str(error), error.exit_status)
    except Exception as error:
        first = first_of(error)
        if isinstance(first, OverlayError):
            return _fail(str(first), first.exit_status)
        if (failure := streams.lost(first)) is not None:
            return _fail(failure, 1)
        if os.environ.get("OVERLAY_DEBUG"):
            raise
        return _fail(f"unexpected {type(first).__name__}: {first}; OVERLAY_DEBUG=1 shows where", 1)


def _fail(line: str, status: int, command: str = "overlay") -> int:
    print(f"{command}: {line}", file=sys.stderr)
    return status
