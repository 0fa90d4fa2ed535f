"""One module of the package with one text replaced, in this process alone and before anybody imports it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """A mistake.

    Attributes:
        file: in the package, without its suffix.
        old, new: what is replaced, which stands there exactly once, and what by.
        tests: arguments for pytest; without any, the simulation has to notice.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """Its name for imports."""
        return f"overlay.{self.file.replace('/', '.')}"

    @property
    def path(self) -> Path:
        """The file."""
        return ROOT / "overlay" / f"{self.file}.py"

    def apply(self, source: str) -> str:
        """The module's text with the mistake in it. Raises ValueError where ``old`` is not there once."""
        if source.count(self.old) != 1:
            raise ValueError(f"{self.file}: {source.count(self.old)} times {self.old!r}")
        return source.replace(self.old, self.new)

    def __str__(self) -> str:
        return f"{self.file}: {' '.join(self.old.split())} → {' '.join(self.new.split()) or 'nothing'}"


class _Loader(SourceFileLoader):
    def __init__(self, mutant: Mutant) -> None:
        super().__init__(mutant.module, str(mutant.path))
        self._mutant = mutant

    def get_code(self, fullname: str) -> object:  # type: ignore[override]  # no compiled file is read or written
        source = self._mutant.apply(self._mutant.path.read_text())
        return compile(source, self.path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        spec.loader = _Loader(self._mutant)
        return spec


def install(mutant: Mutant) -> None:
    """Has this process import the mutant in place of the module."""
    assert mutant.module not in sys.modules, f"{mutant.module} is imported already"
    sys.meta_path.insert(0, _Finder(mutant))
