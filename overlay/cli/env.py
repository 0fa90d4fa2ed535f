"""``overlay env``: Services as variables of the environment, for ``docker run --env-file``."""

from __future__ import annotations

import sys

import click

from overlay.cli.options import Etcd, etcd_flags, services_prefix_flag
from overlay.errors import UsageError
from overlay.services import facts_of
from overlay.services.environment import ALWAYS, variables
from overlay.services.facts import Service
from overlay.services.keys import Keys
from overlay.services.objects.document import ObjectFormatError, decode
from overlay.services.objects.kinds import SERVICE
from overlay.services.objects.names import dns_label
from overlay.store.contract import KeyRange, Store
from overlay.text import excerpt


@click.command()
@etcd_flags
@services_prefix_flag
@click.option("-n", "--namespace", default="default", metavar="NAMESPACE", help="Whose Services; default: default.")
def env(etcd: Etcd, services_prefix: str, namespace: str) -> None:
    """Print the variables that tell a container of a namespace's Services, as Kubernetes and Docker's links have them.

    For example: docker run --env-file <(overlay env -n shop) …
    """
    if dns_label(namespace):
        raise UsageError("is no namespace", about=f"--namespace {excerpt(namespace)}", remedy="such as default")
    found = etcd.run(lambda store: _services(store, Keys(services_prefix), namespace))
    for name, value in variables(found, namespace).items():
        print(f"{name}={value}")


async def _services(store: Store, keys: Keys, namespace: str) -> list[Service]:
    spans = [
        KeyRange(keys.objects(SERVICE.resource, namespace)),
        KeyRange(keys.object(SERVICE.resource, *ALWAYS), prefix=False),
    ]
    snapshots = [await store.read(span) for span in spans]
    items = {item.key: item for snapshot in snapshots for item in snapshot.items}
    found = []
    for item in items.values():
        try:
            found.append(facts_of.service(decode(item.value, item.mod_revision, item.key)))
        except ObjectFormatError as error:
            print(f"overlay env: passed over: {error}", file=sys.stderr)
    return found
