"""The manual page overlay(8), made from the commands themselves: ``python -m overlay.cli.manpage > overlay.8``.

One page for all commands, in man(7)'s macros. (click-man would make a page a command, and does not see commands that
are imported only when they are run.)
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from overlay import __version__
from overlay.cli.main import cli

_FILES = (
    ("/etc/default/overlay", "Settings of the service: FLANNELD_… variables."),
    ("/run/flannel/subnet.env", "This node's subnet and MTU, as flanneld writes them."),
    ("/run/flannel/docker", "Docker's options, made from it when Docker starts."),
    ("/run/overlay", "What a restarted agent adopts, locks and sockets; /run/overlay/api: the API's kubeconfigs."),
    ("/run/overlay/pods.d", "Pods that others than Docker make, for overlay services."),
    ("/var/lib/overlay", "What a reboot must not lose; /var/lib/overlay/api: the API's certificate and tokens."),
)

_EXIT_STATUS = (("0", "done"), ("1", "failed"), ("2", "called wrongly"), ("130", "interrupted"))


def render(group: click.Group, name: str) -> str:
    """The page as text."""
    return "\n".join(_lines(group, name)) + "\n"


def _lines(group: click.Group, name: str) -> Iterator[str]:
    context = click.Context(group, info_name=name)
    summary, *rest = _paragraphs(group.help)
    yield f'.TH {name.upper()} 8 "" "{name} {__version__}" "System Administration"'
    yield ".SH NAME"
    yield f"{name} \\- {_text(summary[0].lower() + summary[1:].rstrip('.'))}"
    yield ".SH SYNOPSIS"
    yield f".B {name}"
    yield "COMMAND [OPTION]... [ARGUMENT]..."
    yield ".SH DESCRIPTION"
    yield from _body(rest)
    yield ".SH COMMANDS"
    yield from _commands(group, context)
    yield ".SH ENVIRONMENT"
    yield "Every flag of flanneld's can be given as a variable: FLANNELD_IP_MASQ for \\-\\-ip\\-masq. The flag wins."
    yield "Those of services, names and the API begin with OVERLAY_: OVERLAY_PROXY_MODE for \\-\\-proxy\\-mode."
    yield ".SH EXIT STATUS"
    yield from _list(_EXIT_STATUS)
    yield ".SH FILES"
    yield from _list(_FILES)


def _commands(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        yield f'.SS "{_text(f"{inner.command_path} {_usage(command, inner)}".strip())}"'
        yield from _body(_paragraphs(command.help))
        yield from _list(_options(command, inner))
        if isinstance(command, click.Group):
            yield from _commands(command, inner)


def _usage(command: click.Command, context: click.Context) -> str:
    return " ".join(command.collect_usage_pieces(context))


def _options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            yield record


def _list(items: Iterator[tuple[str, str]] | tuple[tuple[str, str], ...]) -> Iterator[str]:
    for term, text in items:
        yield ".TP"
        yield f"\\fB{_text(term)}\\fR"
        yield _text(text) or "\\&"


def _body(paragraphs: list[str]) -> Iterator[str]:
    for paragraph in paragraphs:
        yield ".PP"
        yield _text(paragraph)


def _paragraphs(text: str | None) -> list[str]:
    """Unwrapped; click's ``\\b`` (keep the line breaks) and ``\\f`` (the end) are left out."""
    shown = inspect.cleandoc(text or "").partition("\f")[0]
    return [" ".join(block.replace("\b", "").split()) for block in shown.split("\n\n") if block.strip("\b \n")]


def _text(text: str) -> str:
    """Text in which nothing is a macro or an escape (groff_char(7): a bare ``-`` would become a hyphen)."""
    escaped = text.translate(_ESCAPES)
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


_ESCAPES = str.maketrans({"\\": "\\e", "-": "\\-", '"': "\\(dq", "…": "..."})
"""A terminal's font may have no ellipsis."""


if __name__ == "__main__":
    print(render(cli, "overlay"), end="")
