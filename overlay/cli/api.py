"""``overlay api``: Kubernetes' API for Services and pods, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
from pathlib import Path

import click

from overlay.cli.goflags import GO_BOOL, flag
from overlay.cli.options import Etcd, etcd_flags, services_prefix_flag
from overlay.daemon.sd_notify import Notifier
from overlay.errors import NodeError

log = logging.getLogger(__name__)

DEFAULT_KUBECONFIG = "/run/overlay/api/kubeconfig"

kubeconfig_flag = flag(
    "kubeconfig-file", envvar="OVERLAY_KUBECONFIG", default=DEFAULT_KUBECONFIG, metavar="FILE",
    help="The kubeconfig that clients use; one for reading alone is beside it.",
)  # fmt: skip


@click.command()
@etcd_flags
@services_prefix_flag
@flag("port", envvar="OVERLAY_API_PORT", default=6443, type=click.IntRange(0, 65535), metavar="PORT",
      help="TCP port on 127.0.0.1; 0: any that is free.")  # fmt: skip
@kubeconfig_flag
@flag("api-dir", envvar="OVERLAY_API_DIR", default="/var/lib/overlay/api", metavar="DIR",
      help="Where certificate and tokens are kept, for the API's user alone.")  # fmt: skip
@flag("log-format", default="text", type=click.Choice(["text", "json"]), help="Form of the log.")
@flag("v", type=GO_BOOL, default=False, envvar=None, help="Debug messages.")
def api(
    etcd: Etcd, *, services_prefix: str, port: int, kubeconfig_file: str, api_dir: str, log_format: str, v: bool
) -> None:
    """Serve Kubernetes' API for Services, endpoints and pods on 127.0.0.1, for kubectl and others.

    Needs no privileges: etcd's flags decide what it may do. Any number of machines may have one.
    """
    from overlay.api import place  # noqa: PLC0415  (aiohttp and cryptography are large)
    from overlay.api.server import Api, serving  # noqa: PLC0415
    from overlay.daemon import heap  # noqa: PLC0415
    from overlay.observe.logging import set_up  # noqa: PLC0415
    from overlay.services.keys import Keys  # noqa: PLC0415
    from overlay.services.storage import Storage  # noqa: PLC0415
    from overlay.store.etcd.client import EtcdStore  # noqa: PLC0415

    set_up(log_format, verbose=v, under_journald="JOURNAL_STREAM" in os.environ)
    heap.keep_small()
    identity = place.kept(Path(api_dir))

    async def main() -> None:
        store = EtcdStore(etcd.settings)
        stop, notifier = asyncio.Event(), Notifier()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        try:
            served = Api(Storage(store, Keys(services_prefix)), identity.tokens, follow=True)
            async with serving(served, port, identity.tls()) as at:
                file, reading = place.publish(identity, at, Path(kubeconfig_file))
                log.info("serving on https://127.0.0.1:%d; kubeconfig: %s (to read: %s)", at, file, reading)
                notifier.ready()
                notifier.status(f"serving on https://127.0.0.1:{at}")
                await _beat_until(stop, notifier)
                notifier.stopping()
        except OSError as error:
            raise NodeError(error.strerror or str(error), about=f"cannot listen on 127.0.0.1:{port}") from error
        finally:
            await store.close()

    # A file a connection; the usual limit is 1024. Where it may not be raised there are so many connections fewer.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    asyncio.run(main())


async def _beat_until(stop: asyncio.Event, notifier: Notifier) -> None:
    """Feeds systemd's watchdog, where there is one, until ``stop`` is set."""
    watchdog = notifier.watchdog_seconds
    while not stop.is_set():
        notifier.alive()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if watchdog is None else watchdog / 3):
                await stop.wait()
