"""Taking off this machine what an agent made on it. Who makes a thing says here how it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from overlay.errors import OverlayError


@dataclass(frozen=True, slots=True)
class Removal:
    """One kind of thing that is made, and its removal, whichever process made it.

    Attributes:
        what: in a word ("device", "routes").
        run: removes it and tells what there was, a line each; nothing where there is none. Blocks. Raises OverlayError,
            OSError: something is still there.
    """

    what: str
    run: Callable[[], Iterable[str]]


def carry_out(removals: Iterable[Removal]) -> tuple[list[str], list[str]]:
    """Removes one after another, each whatever becomes of the others.

    Returns:
        What was removed, and what could not be and why, a line each.
    """
    removed: list[str] = []
    failed: list[str] = []
    for removal in removals:
        try:
            for line in removal.run():
                removed.append(line)
        except (OverlayError, OSError) as error:
            failed.append(f"{removal.what}: {error}")
    return removed, failed
