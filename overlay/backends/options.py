"""Options that stand in the config's ``Backend`` beside its type, by flannel's rules."""

from __future__ import annotations

from overlay.errors import ConfigError
from overlay.model import BackendConfig
from overlay.packet.mtu import MAXIMUM, MINIMUM
from overlay.text import excerpt


def number(backend: BackendConfig, name: str, low: int, high: int, default: int) -> int:
    """A whole number of that range. Raises ConfigError."""
    value = backend.options.get(name.lower(), default)
    if value == 0 and type(value) is int:  # Go's zero value: as if it were not there
        return default
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(
            f"Backend.{name} = {excerpt(value)}: must be a whole number from {low} to {high}",
            about="network config",
            remedy="correct it with `overlay config set`",
        )
    return value


def mtu(backend: BackendConfig) -> int | None:
    """``MTU`` in bytes, None where the agent may choose. Raises ConfigError: not a possible MTU."""
    return number(backend, "MTU", MINIMUM, MAXIMUM, 0) or None


def as_given(backend: BackendConfig, **known: object) -> dict[str, object]:
    """All options, those that are not ``known`` as they stand in the config: others may mean something by them."""
    names = {name.lower() for name in known}
    return {**{name: value for name, value in backend.options.items() if name not in names}, **known}
