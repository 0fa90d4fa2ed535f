"""The daemon's end of a helper's control socket: what there is to say is asked for when the socket takes a message.

So a helper that does not read costs one message's memory, holds up nobody, and catches up by itself.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from overlay.errors import OverlayError

ToHelper = TypeVar("ToHelper")
FromHelper = TypeVar("FromHelper")
Report = TypeVar("Report")


@dataclass(frozen=True, slots=True)
class _Packet:
    """A message on its way, with copies of the descriptors that go with it."""

    data: bytes
    descriptors: tuple[int, ...]

    def send(self, control: socket.socket) -> None:
        if self.descriptors:
            socket.send_fds(control, [self.data], self.descriptors)
        else:
            control.send(self.data)

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)


class Control(Generic[ToHelper, FromHelper, Report]):
    """One helper's control socket on the running loop; it is closed here.

    Args:
        encode: a message to the helper as bytes.
        more: the next message where nothing else waits; None for nothing. It counts as said.
        question: makes the message that asks how the helper is, with a number that the answer has to have.
        decode: what the helper sent, a whole message; raises ValueError where it is none.
        take: called with that.
        complain: told, in words, of what did not decode.
        ended: what those get who wait for a helper that has ended.
        largest: bytes of a message from it, at most.
        handed_over: descriptors that go with a message; those of ours may be closed from then on.

    Attributes:
        ready: done when the helper said so, with what it said of itself; with ``ended`` if it ended before.
        closed: set when the helper closed its end, so when it died.
    """

    def __init__(
        self,
        control: socket.socket,
        *,
        encode: Callable[[ToHelper], bytes],
        more: Callable[[], ToHelper | None],
        question: Callable[[int], ToHelper],
        decode: Callable[[bytes], FromHelper],
        take: Callable[[FromHelper], None],
        complain: Callable[[str], None],
        ended: Callable[[], OverlayError],
        largest: int,
        handed_over: Callable[[ToHelper], Sequence[int]] = lambda _: (),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._control = control
        self._control.setblocking(False)
        self._encode, self._more, self._question, self._handed_over = encode, more, question, handed_over
        self._decode, self._take, self._complain = decode, take, complain
        self._ended, self._largest = ended, largest
        self.ready: asyncio.Future[str] = self._loop.create_future()
        self.closed = asyncio.Event()
        self._outgoing: list[ToHelper] = []  # at most one of each kind
        self._unsent: _Packet | None = None
        self._writing = False
        self._asked = 0
        self._answer: asyncio.Future[Report] | None = None
        self._loop.add_reader(control, self._receive)

    def say(self, *messages: ToHelper) -> None:
        """Says these next, each in the place of one of its kind that waits; does not block."""
        kinds = {type(message) for message in messages}
        self._outgoing = [*(waiting for waiting in self._outgoing if type(waiting) not in kinds), *messages]
        self.pump()

    async def ask(self) -> Report:
        """How the helper is; waits for as long as it takes. Several callers share one answer.

        Raises:
            OverlayError: ``ended``, as the helper did meanwhile.
        """
        if self.closed.is_set():
            raise self._ended()
        if self._answer is None or self._answer.done():
            self._asked += 1
            self._answer = self._loop.create_future()
            self.say(self._question(self._asked))
        return await asyncio.shield(self._answer)

    def is_ready(self, detail: str = "") -> None:
        """The helper said that it is."""
        if not self.ready.done():
            self.ready.set_result(detail)

    def answered(self, number: int, report: Report) -> None:
        """The helper answered a question; an earlier one's answer is passed over."""
        if self._answer is not None and number == self._asked and not self._answer.done():
            self._answer.set_result(report)

    def close(self) -> None:
        """Closes our end, which ends the helper."""
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control)
            self._loop.remove_writer(self._control)
            self._control.close()
        if self._unsent is not None:
            self._unsent.close()
            self._unsent = None
        for future in (self.ready, self._answer):
            if future is not None and not future.done():
                future.set_exception(self._ended())
                future.exception()  # nobody has to be waiting for it
        self.closed.set()

    def pump(self) -> None:
        """Sends until all is said or the socket is full; then goes on when it is not."""
        if self.closed.is_set():
            return
        while (packet := self._unsent or self._next()) is not None:
            self._unsent = packet
            try:
                packet.send(self._control)
            except BlockingIOError:
                if not self._writing:
                    self._loop.add_writer(self._control, self.pump)
                    self._writing = True
                return
            except OSError:
                self.close()
                return
            packet.close()
            self._unsent = None
        if self._writing:
            self._loop.remove_writer(self._control)
            self._writing = False

    def _next(self) -> _Packet | None:
        message = self._outgoing.pop(0) if self._outgoing else self._more()
        if message is None:
            return None
        return _Packet(self._encode(message), tuple(map(os.dup, self._handed_over(message))))

    def _receive(self) -> None:
        try:
            data = self._control.recv(self._largest)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            message = self._decode(data)
        except ValueError as failure:
            self._complain(f"a message that does not decode: {failure}")
            return
        self._take(message)
