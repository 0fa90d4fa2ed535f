"""A helper process for tests: says who it is, writes through what it was given, and tries what it may not."""

from __future__ import annotations

import os
import sys

from overlay.daemon.confined import inside
from overlay.daemon.confined.privileges import FIRST_USER


def main() -> int:
    given = inside.given(sys.argv[1:], descriptors=1)
    (descriptor,), (word,) = given.descriptors, given.arguments
    if word == "die":
        print("a last word \x1b[31m", file=sys.stderr)
        return 1
    if not inside.confine("echo helper", given.parent, FIRST_USER + 9):
        return 1
    while question := given.control.recv(1000):
        match question:
            case b"write":
                os.write(descriptor, b"through what it was given")
                answer = "written"
            case b"open":
                answer = _open()
            case _:
                answer = f"{word} of {given.parent}"
        given.control.send(answer.encode())
    return 0


def _open() -> str:
    try:
        os.close(os.open("/etc/passwd", os.O_RDONLY))
    except PermissionError as error:
        return type(error).__name__
    return "opened"


if __name__ == "__main__":
    sys.exit(main())
