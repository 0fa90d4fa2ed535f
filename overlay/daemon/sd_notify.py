"""Telling systemd how we are: sd_notify(3), one datagram a message; silent where nobody listens."""

from __future__ import annotations

import contextlib
import os
import socket

from overlay.text import printable


class Notifier:
    """Sends state to ``$NOTIFY_SOCKET``; without one, every call does nothing."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._status = ""

    def _send(self, message: str) -> None:
        if not self._address:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        # The manager may be restarting: it asks again by itself, and no state of ours depends on the answer.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message.encode(), address)

    def ready(self) -> None:
        """Start-up is done: what is ordered after us may start."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``; repeated, it is sent once. A line break would begin another assignment."""
        text = printable(text)
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """Shutting down on purpose."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Feeds the watchdog."""
        self._send("WATCHDOG=1")

    @property
    def watchdog_seconds(self) -> float | None:
        """How often at least the watchdog wants to be fed; None if it does not watch this process."""
        microseconds, owner = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
        if not (microseconds.isascii() and microseconds.isdigit()) or (owner and owner != str(os.getpid())):
            return None
        return int(microseconds) / 1e6
