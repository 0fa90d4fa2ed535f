"""Errors of gRPC and etcd, as they were seen, and what they become."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from overlay.errors import (
    LeaseNotFoundError,
    StoreDeniedError,
    StoreError,
    StoreUnavailableError,
)
from overlay.store.contract import KeyRange
from overlay.store.etcd.errors import (
    LeaseExistsError,
    TooMuchAtOnceError,
    WatchRefusedError,
    all_failed,
    explain,
    is_answer,
    never_sent,
    token_refused,
)
from overlay.store.etcd.rpc import RpcError, key_bytes, range_end
from overlay.store.etcd.settings import Endpoint

ENDPOINT = Endpoint.parse("http://192.0.2.1:2379")
CONNECT = "failed to connect to all addresses; last error: "


def rpc_error(code: str, details: str) -> Exception:
    error: Exception = RpcError(grpc.StatusCode[code], grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
    return error


SEEN = [
    ("UNAVAILABLE", CONNECT + "UNKNOWN: ipv4:192.0.2.1:2379: Failed to connect to remote host: Connection refused",
     StoreUnavailableError, "connection refused"),
    ("UNAVAILABLE", CONNECT + "UNKNOWN: ipv4:192.0.2.1:2379: Tls handshake failed (TSI_PROTOCOL_FAILURE): "
     "SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local",
     StoreUnavailableError, "not signed by a trusted CA; check --etcd-cafile"),
    ("UNAVAILABLE", CONNECT + "UNAVAILABLE: ipv4:192.0.2.1:2379: Unwrap failed (TSI_DATA_CORRUPTED)",
     StoreDeniedError, "refuses our client certificate"),
    ("UNAVAILABLE", "Stream removed (Socket closed)", StoreUnavailableError, "it closed the connection"),
    ("UNAVAILABLE", "Stream removed (recvmsg:Connection timed out (110))", StoreUnavailableError,
     "it has stopped answering"),
    ("UNAVAILABLE", "sendmsg: Broken pipe (32)", StoreUnavailableError, "it closed the connection"),
    ("UNAVAILABLE", CONNECT + "UNKNOWN: ipv4:192.0.2.1:2379: Failed to connect to remote host: Connection timed out",
     StoreUnavailableError, "connecting took too long; is etcd running there?"),
    ("UNAVAILABLE", "errors resolving nope.invalid:2379: [field:hostname lookup error:address lookup failed for "
     "nope.invalid:2379: Domain name not found]", StoreUnavailableError, "name cannot be resolved"),
    ("UNAVAILABLE", "etcdserver: no leader", StoreUnavailableError, "it has no leader"),
    ("UNAVAILABLE", "etcdserver: request timed out", StoreUnavailableError, "request timed out"),
    ("DEADLINE_EXCEEDED", "Deadline Exceeded", StoreUnavailableError, "no answer within 3 s"),
    ("UNIMPLEMENTED", "Received http2 header with status: 404", StoreUnavailableError, "not an etcd v3 server"),
    ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded", StoreUnavailableError, "etcdctl alarm disarm"),
    ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", StoreUnavailableError, "too many requests"),
    ("RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (9 vs. 8)", TooMuchAtOnceError, "larger than max"),
    ("NOT_FOUND", "etcdserver: requested lease not found", LeaseNotFoundError, "does not exist"),
    ("FAILED_PRECONDITION", "etcdserver: lease already exists", LeaseExistsError, "lease already exists"),
    ("UNAUTHENTICATED", "etcdserver: invalid auth token", StoreDeniedError, "invalid auth token"),
    ("PERMISSION_DENIED", "etcdserver: permission denied", StoreDeniedError, "grant the user's role readwrite"),
    ("INVALID_ARGUMENT", "etcdserver: authentication failed, invalid user ID or password", StoreDeniedError,
     "wrong user or password"),
    ("INVALID_ARGUMENT", "etcdserver: user name is empty", StoreDeniedError, "give --etcd-username"),
    ("INVALID_ARGUMENT", "etcdserver: too many operations in txn request", TooMuchAtOnceError, "--max-txn-ops"),
    ("INTERNAL", "", StoreUnavailableError, "internal"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "details", "kind", "words"), SEEN)
def test_an_error_becomes_one_line_for_people(code: str, details: str, kind: type[StoreError], words: str) -> None:
    found = explain(rpc_error(code, details), ENDPOINT, 3.0)
    assert type(found) is kind
    line = str(found)
    assert line.startswith("etcd at http://192.0.2.1:2379: ")
    assert words in line
    assert not {"UNAVAILABLE", "ipv4:", "etcdserver", "TSI_"} & set(line.replace(":", ": ").split())
    assert "\n" not in line


def test_the_remedy_of_a_member_that_answered_counts() -> None:
    refused = explain(rpc_error("UNAVAILABLE", CONNECT + "Connection refused"), ENDPOINT, 3.0)
    untrusted = explain(rpc_error("UNAVAILABLE", "CERTIFICATE_VERIFY_FAILED"), Endpoint.parse("https://192.0.2.2"), 3.0)
    for failures in ((refused, untrusted), (untrusted, refused)):
        told = all_failed([ENDPOINT.url, "https://192.0.2.2"], failures)
        assert isinstance(told, StoreUnavailableError)
        assert str(told).endswith("check --etcd-cafile")
        assert "192.0.2.1:2379: connection refused" in str(told)
    assert str(all_failed([ENDPOINT.url] * 2, (refused, refused))).endswith("check --etcd-endpoints")


def test_endings_without_a_status() -> None:
    assert str(explain(TimeoutError(), ENDPOINT, 2.5)) == "etcd at http://192.0.2.1:2379: no answer within 2.5 s"
    assert isinstance(explain(EOFError(), ENDPOINT, 3), StoreUnavailableError)
    assert isinstance(explain(WatchRefusedError("permission denied"), ENDPOINT, 3), StoreDeniedError)
    assert isinstance(explain(WatchRefusedError(""), ENDPOINT, 3), StoreUnavailableError)


def test_what_surely_was_not_sent_may_be_sent_elsewhere() -> None:
    assert never_sent(rpc_error("UNAVAILABLE", CONNECT + "UNKNOWN: ipv4:192.0.2.1:2379: Connection refused"))
    assert never_sent(rpc_error("UNAVAILABLE", "etcdserver: no leader"))
    for error in (
        rpc_error("UNAVAILABLE", "Stream removed (Socket closed)"),
        rpc_error("UNAVAILABLE", "etcdserver: request timed out, possibly due to previous leader failure"),
        rpc_error("DEADLINE_EXCEEDED", "Deadline Exceeded"),
        TimeoutError(),
    ):
        assert not never_sent(error)


def test_what_another_member_would_answer_too() -> None:
    assert is_answer(rpc_error("PERMISSION_DENIED", "etcdserver: permission denied"))
    assert is_answer(WatchRefusedError())
    assert not is_answer(rpc_error("UNAVAILABLE", "etcdserver: no leader"))
    assert not is_answer(TimeoutError())


def test_when_to_log_in_again() -> None:
    assert token_refused(rpc_error("UNAUTHENTICATED", "etcdserver: invalid auth token"))
    assert token_refused(rpc_error("INVALID_ARGUMENT", "etcdserver: revision of auth store is old"))
    assert token_refused(WatchRefusedError("permission denied"))
    assert not token_refused(rpc_error("PERMISSION_DENIED", "etcdserver: permission denied"))
    assert not token_refused(TimeoutError())


@pytest.mark.parametrize(
    ("span", "end"),
    [
        (KeyRange("/a/"), b"/a0"),
        (KeyRange("/a/", prefix=False), b""),
        (KeyRange("a\udcff"), b"b"),
        (KeyRange("\udcff\udcff"), b"\0"),
        (KeyRange(""), b"\0"),
    ],
)
def test_the_end_of_a_range(span: KeyRange, end: bytes) -> None:
    assert range_end(span) == end


def test_keys_that_are_not_text_survive() -> None:
    raw = b"/subnets/\xff\xfe"
    assert key_bytes(raw.decode("utf-8", "surrogateescape")) == raw
