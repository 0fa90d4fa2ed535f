"""``overlay --settings FILE …``: a command with the service's settings, read as systemd reads them.

``/etc/default/overlay`` is an EnvironmentFile=: no shell script, although it looks like one. A shell that sources it
runs what stands behind a blank (``OVERLAY_OPTIONS=--datapath userspace`` runs ``userspace``) and expands ``$``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from overlay.cli.goflags import normalise
from overlay.errors import UsageError

OPTIONS = "OVERLAY_OPTIONS"
"""The variable that overlay.service puts on the agent's command line."""

_NEWLINE = "\r\n"
_BLANK = " \t" + _NEWLINE
_COMMENT = "#;"
_QUOTES = "'\""
_ESCAPED_IN_QUOTES = '"\\`$'


def read(path: Path) -> dict[str, str]:
    """The variables of a settings file. Raises UsageError where it cannot be read."""
    try:
        text = path.read_text(errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or error}", about=f"--settings {path}") from error
    return parse(text)


def parse(text: str) -> dict[str, str]:
    """What systemd makes of an EnvironmentFile= (systemd: src/basic/env-file.c, as of 254).

    A line without ``=`` or with a name that no variable can have is skipped, as there.
    """
    variables: dict[str, str] = {}
    rest = iter(text)
    for character in rest:
        if character in _BLANK:
            continue
        if character in _COMMENT:
            any(each in _NEWLINE for each in rest)  # skips to the end of the line
            continue
        key, found = _key(character, rest)
        if not found:
            continue
        value = _value(rest)
        if _is_name(key):
            variables[key] = value
    return variables


def effective(variables: Mapping[str, str], agent: click.Command) -> dict[str, str]:
    """The variables that a command other than the agent needs: flags in OVERLAY_OPTIONS become theirs.

    Args:
        variables: of the file.
        agent: the command that the options are for. They are told from each other by its flags, and win, as there.
    """
    result = {name: value for name, value in variables.items() if name != OPTIONS}
    names = {spelling: option.envvar for option in agent.params for spelling in option.opts}
    for argument in normalise(agent, variables.get(OPTIONS, "").split()):
        spelling, equals, value = argument.partition("=")
        if isinstance(variable := names.get(spelling), str):
            result[variable] = value if equals else "true"
    return result


def _key(first: str, rest: Iterator[str]) -> tuple[str, bool]:
    """The name before ``=``, and whether there was one before the line ended."""
    key = first
    if first == "=":
        return "", True
    for character in rest:
        if character in _NEWLINE:
            return key, False
        if character == "=":
            return key.rstrip(_BLANK), True
        key += character
    return key, False


def _value(rest: Iterator[str]) -> str:
    """The value up to the end of its line: quotes are taken off, blanks around it, and what a backslash is for."""
    value, kept = "", 0  # kept: so much of it is no blank at its end
    bare = False  # after a character outside quotes, quotes are characters like others
    for character in rest:
        if character in _NEWLINE:
            break
        if character in _QUOTES and not bare:
            value += _quoted(character, rest)
            kept = len(value)
        elif character == "\\":
            following = next(rest, "")
            value += following.strip(_NEWLINE)
            bare, kept = True, len(value)
        elif bare or character not in _BLANK:
            value += character
            bare, kept = True, kept if character in _BLANK else len(value)
    return value[:kept]


def _quoted(quote: str, rest: Iterator[str]) -> str:
    text = ""
    for character in rest:
        if character == quote:
            break
        if character == "\\" and quote == '"':
            following = next(rest, "")
            if following in _ESCAPED_IN_QUOTES:
                text += following
            elif following != "\n":
                text += character + following
        else:
            text += character
    return text


def _is_name(key: str) -> bool:
    return key.isascii() and key.replace("_", "a").isalnum() and not key[0].isdigit()
