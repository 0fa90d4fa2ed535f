"""What others wrote, for people to read: on a terminal, in the log, in systemd's status."""

from __future__ import annotations

from itertools import islice


def excerpt(value: object, limit: int = 60) -> str:
    """``value`` for people: on one line, printable, and no longer than ``limit`` characters. Safe for any value."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else _sketch(value)
    return printable(text) if len(text) <= limit else f"{printable(text[:limit])}…"


def harmless(data: bytes) -> str:
    """UTF-8 that a helper wrote, as it may be shown: one line, all of it printable.

    What would end the line, move a terminal's cursor or turn the direction of writing (``str.isprintable``), and what
    is no UTF-8, is U+FFFD instead.
    """
    return "".join(each if each.isprintable() else "\ufffd" for each in data.decode(errors="replace"))


def lines_of(data: bytes) -> list[str]:
    """The lines of what the kernel, or a tool of the machine, printed.

    A line ends at a newline and nowhere else (``str.splitlines`` knows ten more ends). Interfaces' names, paths and
    comments of rules are bytes: those that are no UTF-8 stay as they are (PEP 383), and go back as they came.
    """
    text = data.decode("utf-8", "surrogateescape").removesuffix("\n")
    return text.split("\n") if text else []


def printable(text: str) -> str:
    """``text`` without what could end a line, move a cursor or not be encoded: others wrote it and people read it."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "·" for char in text)


_SKETCHED = 8
"""Members of an array or object that are shown at most."""


def _sketch(value: object, levels: int = 3) -> str:
    """A decoded value as JSON, cut off in depth and width."""
    match value:
        case str():
            return value
        case None | bool():
            return {None: "null", True: "true", False: "false"}[value]
        case tuple() | list() if levels == 0:
            return "…"
        case tuple():
            return (
                "{" + ", ".join(f"{name}: {_sketch(each, levels - 1)}" for name, each in islice(value, _SKETCHED)) + "}"
            )
        case list():
            return "[" + ", ".join(_sketch(each, levels - 1) for each in islice(value, _SKETCHED)) + "]"
    return str(value)
