"""``overlay kubectl ARGS…``: the machine's kubectl, against an API that lives as long as the command.

The API listens on a free port of 127.0.0.1 with a certificate and a token of its own, which kubectl finds in a
kubeconfig that only this user can read. Nothing listens before and after.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal

import click

from overlay.cli.goflags import flag
from overlay.cli.options import Etcd, etcd_flags, services_prefix_flag
from overlay.errors import NodeError


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@etcd_flags
@services_prefix_flag
@flag("kubectl", envvar="OVERLAY_KUBECTL", default="kubectl", metavar="PROGRAM", help="Which kubectl is run.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def kubectl(etcd: Etcd, services_prefix: str, kubectl: str, arguments: tuple[str, ...]) -> int:
    """Run kubectl on this cluster's Services, endpoints and pods; all behind the first word is kubectl's.

    For example: overlay kubectl get svc -A; overlay kubectl apply -f service.yaml
    """
    program = shutil.which(kubectl)
    if program is None:
        remedy = "install it (Debian: kubernetes-client, from 13 on kubectl), or give --kubectl"
        raise NodeError("there is no such program", about=kubectl, remedy=remedy)

    from overlay.api import kubeconfig, place  # noqa: PLC0415  (aiohttp and cryptography are large)
    from overlay.api.server import Api, serving  # noqa: PLC0415
    from overlay.services.keys import Keys  # noqa: PLC0415
    from overlay.services.storage import Storage  # noqa: PLC0415
    from overlay.store.etcd.client import EtcdStore  # noqa: PLC0415

    async def main() -> int:
        store, identity = EtcdStore(etcd.settings), place.Identity.new()
        try:
            async with serving(Api(Storage(store, Keys(services_prefix)), identity.tokens), 0, identity.tls()) as port:
                with place.passing() as folder:
                    config = folder / "kubeconfig"
                    server = f"https://127.0.0.1:{port}"
                    config.touch(mode=0o600)
                    config.write_bytes(
                        kubeconfig.render(server, identity.certificates.authority, identity.tokens.write)
                    )
                    return await _run([program, f"--cache-dir={folder}/cache", *arguments], str(config))
        finally:
            await store.close()

    return asyncio.run(main())


async def _run(command: list[str], config: str) -> int:
    """Runs a command in the foreground; its exit status. ^C is the command's affair, and so are other signals."""
    loop = asyncio.get_running_loop()
    environment = {**os.environ, "KUBECONFIG": config, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    process = await asyncio.create_subprocess_exec(*command, env=environment)

    def pass_on(number: signal.Signals) -> None:
        if process.returncode is None:
            process.send_signal(number)

    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the terminal tells kubectl too
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, pass_on, number)
    status = await process.wait()
    return 128 - status if status < 0 else status
