"""Which network config the node runs on: the newest in the store that is valid and that its lease survives.

A config that is missing, invalid or incompatible changes nothing: the last good one runs on, and people are told.
"""

from __future__ import annotations

from collections.abc import Callable

from overlay.control.schema.config import parse_config
from overlay.errors import ConfigError, ConfigMissingError
from overlay.model import Lease, NetworkConfig
from overlay.problem import Problem

Check = Callable[[NetworkConfig], None]
"""Raises ConfigError for a valid config that this agent cannot run (a backend it does not have)."""


class Configuration:
    """Follows the config key.

    Attributes:
        current: the config to run on; None before the first good one.
        error: what is wrong with the store's newest; None if it is ``current``.
    """

    def __init__(self, key: str, check: Check) -> None:
        self.current: NetworkConfig | None = None
        self.error: ConfigError | None = None
        self._key = key
        self._check = check
        self._proposed: NetworkConfig | None = None
        self._value: bytes | None = None

    def see_again(self, held: Lease | None) -> None:
        """What the check judges by has changed."""
        if self._value is not None:
            self.see(self._value, held)

    def see(self, value: bytes | None, held: Lease | None) -> None:
        """The key has ``value`` now; None: it is not there."""
        self._value = value
        self._proposed = None
        self.error = None
        if value is None:
            self.error = ConfigMissingError(
                "there is no network config", about=self._key, remedy="write one with `overlay config set`"
            )
            return
        try:
            proposed = parse_config(value)
            self._check(proposed)
        except ConfigError as error:
            self.error = error
            return
        self._proposed = proposed
        self.reconsider(held)

    def reconsider(self, held: Lease | None) -> None:
        """Takes over the newest config if ``held``, which may have changed, allows it."""
        if self._proposed is None:
            return
        self.error = (
            None if self.current is None or held is None else incompatibility(self.current, self._proposed, held)
        )
        if self.error is None:
            self.current = self._proposed

    def problem(self) -> Problem | None:
        """What to tell people."""
        if self.error is None:
            return None
        after = "" if self.current is None else "running on with the last good config"
        return Problem.of(self.error, "config", about=self._key, after=after)


def incompatibility(running: NetworkConfig, proposed: NetworkConfig, held: Lease) -> ConfigError | None:
    """Why ``proposed`` cannot follow ``running`` while ``held`` is leased; None if it can.

    A wider network, another SubnetMin or SubnetMax, another backend and other options of it can, as long as the held
    subnet stays one that could be leased.
    """
    if proposed.ipv4 is None or running.ipv4 is None or (proposed.ipv6 is None) != (running.ipv6 is None):
        return _refused("EnableIPv4 or EnableIPv6 changed")
    if proposed.ipv4.subnet_len != running.ipv4.subnet_len:
        return _refused(f"SubnetLen changed from {running.ipv4.subnet_len} to {proposed.ipv4.subnet_len}")
    if not proposed.ipv4.contains(held.subnet):
        pool = proposed.ipv4
        return _refused(f"this node's subnet {held.subnet} is not one of {pool.subnet_min} to {pool.subnet_max}")
    if proposed.ipv6 is not None and held.ipv6_subnet is not None and not proposed.ipv6.contains(held.ipv6_subnet):
        return _refused(f"this node's IPv6 subnet {held.ipv6_subnet} does not fit it")
    return None


def _refused(cause: str) -> ConfigError:
    return ConfigError(
        f"the new config is refused: {cause}",
        about="network config",
        remedy="restart the agent to go over to it, or put the old one back",
    )
