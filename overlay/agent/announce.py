"""``--on-subnet-change``: an operator's command that is told of every change of this node's subnet."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import NoReturn

from overlay.errors import FileError
from overlay.linux.files import read_object, write_atomically
from overlay.node.subnet_env import SubnetEnv

_log = logging.getLogger(__name__)

FILE_NAME = "announced.json"

_COMMAND_SECONDS = 60.0
"""How long the command may take before it is killed."""

_FIRST_RETRY = 10.0
"""Seconds before a command that failed is run again; doubles with every failure."""

_MAX_RETRY = 600.0
"""Seconds between two attempts at most."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What the command has heard.

    Attributes:
        subnet: that it was last told with success, or that was there before there was anything to tell.
        trying: that it was started with since, and has not succeeded with.
    """

    subnet: IPv4Network
    trying: IPv4Network | None = None


class Announcer:
    """Runs the command until it has succeeded with the newest subnet; :meth:`run` is its task.

    It runs once at a time. A subnet that comes while it runs is told next, and those that came between the two are
    never told: FLANNEL_OLD_SUBNET is always what the command last succeeded with. That is kept in the state directory,
    so that an agent that ended while the command ran, however it ended, runs it again when it starts. The command
    may therefore be told the same change twice, and never misses the last one.

    A command that fails (a status other than 0, killed at the time limit, not to be started) is logged and run again,
    after 10 seconds, then after twice as long each time up to 10 minutes, and at once when the subnet changes.

    It has a session of its own, and its process group is killed at the time limit and at the agent's end. Only what a
    SIGKILL of the agent leaves behind goes on, unless the service manager ends it.

    Args:
        command: for ``/bin/sh -c``.
        directory: the state directory.
    """

    def __init__(self, command: str, directory: Path) -> None:
        self._command = command
        self._path = directory / FILE_NAME
        self._told = _read(self._path)
        self._newest: SubnetEnv | None = None
        self._changed = asyncio.Event()

    def begin(self, subnet: IPv4Network) -> None:
        """Where nothing was ever told, ``subnet`` is what changes are counted from.

        To be called before a new subnet is written to subnet.env: that is then forgotten there.
        """
        if self._told is None:
            self._remember(_Told(subnet))

    def tell(self, content: SubnetEnv) -> None:
        """The subnet is now as ``content`` has it, and subnet.env says so."""
        if self._newest is None or self._newest.subnet != content.subnet:
            self._changed.set()
        self._newest = content

    async def run(self) -> NoReturn:
        """Runs the command whenever there is something to tell, until cancelled; then what runs is killed."""
        wait = _FIRST_RETRY
        while True:
            self._changed.clear()
            content, told = self._newest, self._told
            if content is None or told is None or told == _Told(content.subnet):
                await self._changed.wait()
                continue
            failure = await self._announce(content, told)
            if failure is None:
                wait = _FIRST_RETRY
                continue
            _log.warning("%s: %s; running it again in %g s", self._command, failure, wait)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            wait = min(2 * wait, _MAX_RETRY)

    async def _announce(self, content: SubnetEnv, told: _Told) -> str | None:
        """Runs the command once; what went wrong, None if nothing did."""
        back_again = told.subnet == content.subnet and told.trying is not None
        old = told.trying if back_again else told.subnet
        await asyncio.to_thread(self._remember, _Told(told.subnet, told.trying if back_again else content.subnet))
        _log.info("subnet changed from %s to %s: running %s", old, content.subnet, self._command)
        try:
            status = await self._carry_out(os.environ | content.variables() | {"FLANNEL_OLD_SUBNET": str(old)})
        except TimeoutError:
            return f"killed, it took more than {_COMMAND_SECONDS:g} s"
        except OSError as error:
            return f"cannot be started: {error.strerror}"
        if status != 0:
            return f"ended with status {status}"
        await asyncio.to_thread(self._remember, _Told(content.subnet))
        return None

    async def _carry_out(self, environment: dict[str, str]) -> int:
        """The command's exit status, minus the signal's number where one ended it. Raises TimeoutError, OSError."""
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", self._command, env=environment, start_new_session=True
        )
        try:
            async with asyncio.timeout(_COMMAND_SECONDS):
                return await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    def _remember(self, told: _Told) -> None:
        self._told = told
        trying = None if told.trying is None else str(told.trying)
        try:
            write_atomically(self._path, f"{json.dumps({'told': str(told.subnet), 'trying': trying})}\n")
        except FileError as error:
            _log.warning("%s; a subnet that changes while the agent does not run may not be told", error)


def _read(path: Path) -> _Told | None:
    try:
        members = read_object(path)
        trying = members["trying"]
        return _Told(IPv4Network(members["told"]), None if trying is None else IPv4Network(trying))
    except FileNotFoundError:
        return None
    except FileError as error:
        _log.warning("%s; going on without it", error)
        return None
    except (ValueError, TypeError, KeyError) as error:
        _log.warning("%s: cannot be used (%r); going on without it", path, error)
        return None
