"""Flags that several commands share: how to reach etcd."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

from overlay.cli.goflags import flag
from overlay.control.etcd_settings import DEFAULT_ENDPOINTS, EtcdSettings
from overlay.control.store import Store

T = TypeVar("T")

_FLAGS = (
    flag("etcd-endpoints", default=",".join(DEFAULT_ENDPOINTS), metavar="URL,…", help="etcd servers, comma separated."),
    flag("etcd-prefix", default="/coreos.com/network", metavar="KEY", help="Where the network's keys are."),
    flag("etcd-keyfile", default="", metavar="FILE", help="Our TLS private key."),
    flag("etcd-certfile", default="", metavar="FILE", help="Our TLS certificate."),
    flag("etcd-cafile", default="", metavar="FILE", help="The CA that signed etcd's certificate."),
    flag("etcd-username", default="", metavar="NAME", help="User of etcd's authentication."),
    flag("etcd-password", default="", metavar="WORD", help="Its password (better in the environment)."),
)


@dataclass(frozen=True, slots=True)
class Etcd:
    """Where the network's keys are, and how to get there."""

    settings: EtcdSettings
    prefix: str

    @classmethod
    def from_flags(cls, flags: dict[str, Any]) -> Etcd:
        """Takes its flags out of ``flags``. Raises UsageError for values that cannot work."""
        return cls(
            EtcdSettings(
                endpoints=tuple(url for part in flags.pop("etcd_endpoints").split(",") if (url := part.strip())),
                keyfile=flags.pop("etcd_keyfile"),
                certfile=flags.pop("etcd_certfile"),
                cafile=flags.pop("etcd_cafile"),
                username=flags.pop("etcd_username"),
                password=flags.pop("etcd_password"),
            ),
            prefix="/" + flags.pop("etcd_prefix").strip("/"),
        )

    def run(self, work: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        """Opens the store, runs ``work`` with it to its end, and closes it."""
        from overlay.control.etcd import EtcdStore  # noqa: PLC0415  (gRPC is large: only when flags are right)

        async def main() -> T:
            store = EtcdStore(self.settings)
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(main())


def etcd_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds etcd's flags to a command, which gets one ``etcd: Etcd`` instead of them."""

    @wraps(command)
    def with_etcd(**flags: Any) -> Any:
        return command(etcd=Etcd.from_flags(flags), **flags)

    for add in reversed(_FLAGS):
        with_etcd = add(with_etcd)
    return with_etcd
