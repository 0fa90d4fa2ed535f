"""Flags as Go's flag package takes them: ``-iface=eth0`` and ``--iface eth0``, ``-ip-masq`` and ``-ip-masq=false``.

click knows the double dash only, and takes ``-iface`` for a bundle of one-letter flags; :func:`normalise` rewrites the
arguments before click sees them. :data:`GO_BOOL` reads a boolean as Go's strconv.ParseBool does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def normalise(command: click.Command, arguments: Sequence[str]) -> list[str]:
    """``-name`` and ``-name=value`` become ``--name…`` where ``name`` is a flag of ``command``; the rest stays.

    A value that follows a flag is never touched, nor is anything behind ``--``.
    """
    options = {
        spelling.lstrip("-"): parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for spelling in (*parameter.opts, *parameter.secondary_opts)
        if len(spelling.lstrip("-")) > 1 or spelling.startswith("--")
    }
    short = {opt[1] for parameter in command.params for opt in parameter.opts if len(opt) == 2 and opt[0] == "-"}
    result: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return [*result, argument, *rest]
        name, equals, _ = argument.lstrip("-").partition("=")
        option = options.get(name) if argument.startswith("-") else None
        if argument == "-help":
            result.append("--help")
            continue
        if option is None:
            # An unknown -name is named in the error as a whole, unless it is a bundle of one-letter flags.
            unknown = len(argument) > 2 and argument[0] == "-" and argument[1] not in short | {"-", "h"}
            result.append(f"-{argument}" if unknown and not argument[1].isdigit() else argument)
            continue
        result.append(f"--{argument.lstrip('-')}")
        takes_value = not option.is_flag and option.type is not GO_BOOL
        if takes_value and not equals and (value := next(rest, None)) is not None:
            # Go takes the next argument whatever it looks like; click would refuse one that begins with a dash.
            result[-1] += f"={value}"
    return result


class GoBool(click.ParamType[bool]):
    """``1 t T true TRUE True`` and ``0 f F false FALSE False``."""

    name = "bool"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        if isinstance(value, bool):
            return value
        if value not in _TRUE | _FALSE:
            self.fail(f"{value!r} is neither true nor false", param, ctx)
        return value in _TRUE


GO_BOOL = GoBool()


class Verbatim(click.ParamType[str]):
    """A string; one environment variable is one value (click would split it at white space)."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return str(value)

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        return [rv] if rv else []


def flag(name: str, **settings: Any) -> Callable[[F], F]:
    """A flag of flanneld's: ``--name``, and ``FLANNELD_NAME`` in the environment; the command line wins."""
    settings.setdefault("envvar", "FLANNELD_" + name.upper().replace("-", "_"))
    settings.setdefault("show_default", settings.get("default") not in (None, "", ()))
    if settings.get("type") is GO_BOOL:
        settings.update(is_flag=False, flag_value="true")
        settings.setdefault("metavar", "[=BOOL]")
    return click.option(f"--{name}", **settings)
