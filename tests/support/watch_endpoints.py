"""Prints a Service's endpoints whenever they change, a JSON line each: what a client of the API would be told.

    python -m tests.support.watch_endpoints ETCD_URL NAMESPACE NAME

A line has ``time`` (Unix seconds), ``ready`` and ``unready`` (addresses by the names of their pods), and ``serving``
(the names of those that terminate and serve still).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from random import Random

from overlay.services.keys import Keys
from overlay.services.mirror import ServicesFollower
from overlay.store.etcd.client import EtcdSettings, EtcdStore
from overlay.store.following import Following


async def main(url: str, namespace: str, name: str) -> None:
    """Until killed."""
    follower = ServicesFollower(Keys(), Random())
    last: object = None

    def told() -> None:
        nonlocal last
        now = time.time()
        document = follower.mirror.endpoints((namespace, name)) or {}
        seen: dict[str, object] = {
            word: {
                address["targetRef"]["name"]: address["ip"]
                for subset in document.get("subsets", [])
                for address in subset.get(field, [])
            }
            for word, field in (("ready", "addresses"), ("unready", "notReadyAddresses"))
        }
        seen["serving"] = [
            endpoint["targetRef"]["name"]
            for piece in follower.mirror.slices((namespace, name))
            for endpoint in piece["endpoints"]
            if endpoint["conditions"]["terminating"] and endpoint["conditions"]["serving"]
        ]
        if seen != last and follower.mirror.loaded:
            last = seen
            print(json.dumps({"time": now, **seen}), flush=True)

    await Following(EtcdStore(EtcdSettings(endpoints=(url,))), follower, time.monotonic, told).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
