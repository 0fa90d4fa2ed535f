"""The one importer of gRPC: channels to etcd's members, services on them, and its messages as facts of ours.

Of the etcd3 package its description of etcd's API is used (:mod:`overlay.store.etcd.api`), on gRPC's asyncio
channels. Its client class is not: it blocks, its watcher spins at 100 % of a core once the server is gone, and its
token is never renewed.
"""

from __future__ import annotations

import os
from typing import Any

# gRPC's core writes failed handshakes to stderr by itself; they reach the log through our errors instead.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Names resolve as for any other program here (/etc/hosts, nsswitch), not by gRPC's own resolver.
os.environ.setdefault("GRPC_DNS_RESOLVER", "native")

import grpc
import grpc.aio

from overlay.store.contract import KeyRange, KeyValue
from overlay.store.etcd.api import Service
from overlay.store.etcd.api import messages as pb
from overlay.store.etcd.settings import Endpoint, TlsFiles

__all__ = [
    "END_OF_STREAM",
    "RpcError",
    "StatusCode",
    "Stubs",
    "channel_to",
    "key_bytes",
    "key_value",
    "pb",
    "range_end",
]

RpcError = grpc.aio.AioRpcError
StatusCode = grpc.StatusCode
END_OF_STREAM = grpc.aio.EOF

MAX_RESPONSE = 64 * 1024 * 1024
"""Bytes in one response: 65,536 leases (a /8 in /24s) of at most 256 bytes are 16 MiB, with a factor of 4 to spare.
gRPC's default of 4 MiB ends at some 25,000 leases."""

CHANNEL_OPTIONS = (
    # A ping 10 s after the last sign of life, lost after 5 s: a frozen server is noticed within 15 s. Not more often
    # than every 5 s, at which etcd drops the connection (its --grpc-keepalive-min-time).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A member that comes back is found within 2 s; gRPC's own backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # How long one attempt to connect may take, in spite of its name; gRPC's own is 20 s.
    ("grpc.min_reconnect_backoff_ms", 3_000),
    ("grpc.max_receive_message_length", MAX_RESPONSE),
    # etcd's own client ignores http_proxy too: the way to etcd must not depend on a shell's environment.
    ("grpc.enable_http_proxy", 0),
    # Backoff is then this channel's own, not shared with another one to the same address.
    ("grpc.use_local_subchannel_pool", 1),
)


class Stubs:
    """etcd's services on one channel."""

    def __init__(self, channel: Any) -> None:
        self.kv = Service(channel, "KV")
        self.lease = Service(channel, "Lease")
        self.watch = Service(channel, "Watch")
        self.auth = Service(channel, "Auth")


def channel_to(endpoint: Endpoint, tls: TlsFiles | None) -> Any:
    """An asyncio channel that connects by itself once it is used; needs a running loop."""
    if not endpoint.tls:
        return grpc.aio.insecure_channel(endpoint.target, options=CHANNEL_OPTIONS)
    files = tls or TlsFiles(None, None, None)
    credentials = grpc.ssl_channel_credentials(files.ca, files.key, files.certificate)
    return grpc.aio.secure_channel(endpoint.target, credentials, options=CHANNEL_OPTIONS)


def key_bytes(key: str) -> bytes:
    """A key as etcd takes it; undoes :func:`key_value`'s decoding, also of keys that are not UTF-8."""
    return key.encode("utf-8", "surrogateescape")


def range_end(span: KeyRange) -> bytes:
    """etcd's end of a range: the first key after all with the prefix, ``\\0`` for "no end", empty for a single key."""
    if not span.prefix:
        return b""
    trimmed = key_bytes(span.key).rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else b"\0"


def key_value(kv: Any) -> KeyValue:
    """A ``mvccpb.KeyValue`` as ours."""
    return KeyValue(kv.key.decode("utf-8", "surrogateescape"), kv.value, kv.mod_revision, kv.lease)
