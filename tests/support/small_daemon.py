"""A daemon on the chassis, as small as it can be: keeps a file as it should be, and says how that goes."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from overlay.daemon.http import Health
from overlay.daemon.lifetime import Daemon
from overlay.daemon.reconcile import Look
from overlay.errors import FileError, OverlayError
from overlay.observe.logging import set_up

CONTENT = "as it should be\n"


async def bring_up(daemon: Daemon, kept: Path) -> None:
    """Keeps ``kept``, and is ready once it is so."""
    first = asyncio.Event()

    async def keep() -> Look:
        try:
            if not kept.exists() or kept.read_text() != CONTENT:
                kept.write_text(CONTENT)
        except OSError as error:
            raise FileError(error.strerror or "", about=str(kept)) from error
        first.set()
        return Look(due=0.05)

    async def report() -> bytes:
        return json.dumps([problem.text for problem in daemon.troubles.now]).encode()

    async def alive() -> bool:
        return True

    async def health() -> Health:
        return Health(True, not daemon.troubles.now, "as it is")

    daemon.keep("file", keep, retry=0.05)
    daemon.answer(report)
    daemon.answer_probes(("127.0.0.1", int(sys.argv[2])), health)
    daemon.beat(alive, lambda: f"{len(daemon.troubles.now)} problems")
    daemon.at_end(lambda: asyncio.to_thread(kept.unlink, missing_ok=True))
    await first.wait()
    daemon.notifier.ready()


def main() -> int:
    set_up("text", verbose=False, under_journald=True)
    directory = Path(sys.argv[1])
    daemon = Daemon("small", directory)
    try:
        asyncio.run(daemon.run(lambda: bring_up(daemon, directory / "kept")))
    except OverlayError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
