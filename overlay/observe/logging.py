"""Log lines for people and journald, on standard error; ``--log-format json`` for machines."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Hashable

from overlay.text import printable


class _Plain(logging.Formatter):
    """``2026-11-21T01:02:03 INFO control.keeper: text``; journald brings a clock of its own, so none is shown there."""

    def __init__(self, *, clock: bool) -> None:
        stamp = "%(asctime)s " if clock else ""
        super().__init__(f"{stamp}%(levelname)s %(where)s: %(message)s", "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.where = record.name.removeprefix("overlay.")
        return printable(super().format(record).replace("\n", " | "))


class _Json(logging.Formatter):
    """One object a line: ``time`` (Unix seconds), ``level``, ``where``, ``message``, and ``traceback`` where there is
    one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "where": record.name.removeprefix("overlay."),
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def set_up(style: str, *, verbose: bool, under_journald: bool) -> None:
    """Sends the package's log to standard error.

    Args:
        style: ``text`` or ``json``.
        verbose: debug messages as well.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if style == "json" else _Plain(clock=not under_journald))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("overlay").setLevel(logging.DEBUG if verbose else logging.INFO)


class Once:
    """Says a thing when it begins and when it changes, and again only after a while: a bounded log of states.

    Bounded in memory too: it keeps the last text of each topic, and topics are few and named by the caller.
    """

    def __init__(self, log: logging.Logger, *, again_after: float = 600.0) -> None:
        self._log = log
        self._again_after = again_after
        self._said: dict[Hashable, tuple[str, float]] = {}

    def say(self, topic: Hashable, text: str, level: int = logging.WARNING) -> None:
        """Logs ``text`` unless it is what was last said about ``topic`` less than ``again_after`` seconds ago."""
        now = time.monotonic()
        last = self._said.get(topic)
        if last is None or last[0] != text or now - last[1] >= self._again_after:
            self._said[topic] = (text, now)
            self._log.log(level, "%s", text)

    def over(self, topic: Hashable, text: str) -> None:
        """Logs that the state of ``topic`` has ended, if it was ever announced."""
        if self._said.pop(topic, None) is not None:
            self._log.info("%s", text)
