"""The locks of what is installed from a package index, against pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_SOURCE = Path(__file__).resolve().parents[2]
_LOCKS = ("build", "run", "dev", "lowest")
_PYTHONS = ("3.11", "3.12", "3.13", "3.14")
_HASHED = re.compile(r"^(?P<requirement>[^\s#\\][^\\]*?)(?: \\\n    --hash=sha256:[0-9a-f]{64})+$", re.MULTILINE)


@dataclass(frozen=True)
class Declared:
    """What pyproject.toml asks for."""

    build: tuple[Requirement, ...]
    run: tuple[Requirement, ...]
    tests: tuple[Requirement, ...]
    checks: tuple[Requirement, ...]

    def of(self, lock: str) -> tuple[Requirement, ...]:
        return {
            "build": self.build,
            "run": self.run,
            "dev": self.run + self.tests + self.checks,
            "lowest": self.run + self.tests,
        }[lock]


@pytest.fixture(scope="module")
def declared() -> Declared:
    project = tomllib.loads((_SOURCE / "pyproject.toml").read_text())
    names = (
        project["build-system"]["requires"],
        project["project"]["dependencies"],
        project["project"]["optional-dependencies"]["tests"],
        project["project"]["optional-dependencies"]["checks"],
    )
    return Declared(*(tuple(Requirement(name) for name in group) for group in names))


def _text(lock: str) -> str:
    return (_SOURCE / f"requirements/{lock}.txt").read_text()


def _pins(lock: str, python: str) -> dict[str, str]:
    """Versions by name, as they are installed on this Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}

    def applying() -> Iterator[tuple[str, str]]:
        for found in _HASHED.finditer(_text(lock)):
            requirement = Requirement(found["requirement"])
            if requirement.marker is None or requirement.marker.evaluate(environment):
                (specifier,) = requirement.specifier
                assert specifier.operator == "=="
                yield canonicalize_name(requirement.name), specifier.version

    pins = list(applying())
    assert len(pins) == len(dict(pins)), f"{lock}: a name is pinned twice"
    return dict(pins)


@pytest.mark.parametrize("lock", _LOCKS)
def test_a_lock_has_versions_with_hashes_and_nothing_else(lock: str) -> None:
    """No option, address or path, so no index and no machine is written down."""
    rest = re.sub(r"^#.*$", "", _HASHED.sub("", _text(lock)), flags=re.MULTILINE)
    assert rest.split() == []


@pytest.mark.parametrize("python", _PYTHONS)
@pytest.mark.parametrize("lock", _LOCKS)
def test_a_lock_has_what_is_asked_for(declared: Declared, lock: str, python: str) -> None:
    pins = _pins(lock, python)
    for requirement in declared.of(lock):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{lock}.txt has no {requirement.name}: make lock"
        assert requirement.specifier.contains(version), f"{lock}.txt has {requirement.name} {version}: make lock"


@pytest.mark.parametrize("python", _PYTHONS)
def test_the_lowest_versions_are_the_declared_ones(declared: Declared, python: str) -> None:
    pins = _pins("lowest", python)
    for requirement in declared.of("lowest"):
        (bound,) = requirement.specifier
        found = Requirement(f"{requirement.name}=={bound.version}").specifier
        assert found.contains(pins[canonicalize_name(requirement.name)]), f"{requirement.name}: make lock"


@pytest.mark.parametrize("python", _PYTHONS)
def test_locks_agree(python: str) -> None:
    """They are installed into one environment, one after another."""
    everything = _pins("dev", python)
    for lock in ("build", "run"):
        for name, version in _pins(lock, python).items():
            assert everything.get(name, version) == version, f"{name}: make lock"
