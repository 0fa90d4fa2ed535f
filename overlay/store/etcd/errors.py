"""What the errors of etcd and gRPC mean: in plain words for people, in this package's classes for the callers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from overlay.errors import (
    CompactedError,
    LeaseNotFoundError,
    StoreDeniedError,
    StoreError,
    StoreRestoredError,
    StoreUnavailableError,
)
from overlay.store.etcd.rpc import RpcError, StatusCode
from overlay.store.etcd.settings import Endpoint


class LeaseExistsError(StoreError):
    """A grant named an etcd lease that is there already."""


class TooMuchAtOnceError(StoreError):
    """More was asked for than one answer holds, or than this etcd does in one transaction: less may do."""


class WatchRefusedError(Exception):
    """The server cancelled a watch while it was made; etcd 3.4 says so for a wrong role and for an expired token."""


_ANSWERS = frozenset(
    (
        StatusCode.NOT_FOUND,
        StatusCode.ALREADY_EXISTS,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.INVALID_ARGUMENT,
        StatusCode.PERMISSION_DENIED,
        StatusCode.UNAUTHENTICATED,
        StatusCode.OUT_OF_RANGE,
        StatusCode.RESOURCE_EXHAUSTED,
    )
)
"""Codes with which etcd answers a request; another member would answer the same. (etcd: api/v3rpc/rpctypes/error.go)"""

CALL_FAILURES = (RpcError, TimeoutError, EOFError, WatchRefusedError)
"""How a call or a stream may fail, in the terms of gRPC and of the streams here; :func:`explain` puts it in ours."""


def is_answer(error: Exception) -> bool:
    """Whether the cluster has decided, so that asking another member is of no use."""
    return isinstance(error, WatchRefusedError) or (isinstance(error, RpcError) and error.code() in _ANSWERS)


def never_sent(error: Exception) -> bool:
    """Whether a request surely did not reach the cluster's log: no connection, or a member that refused it unread.

    Told by gRPC's and etcd's texts; one that is not known counts as sent, which costs a retry and never correctness.
    """
    return isinstance(error, RpcError) and bool(_NEVER_SENT.match(error.details() or ""))


_NEVER_SENT = re.compile(r"failed to connect to all addresses|errors? resolving|DNS resolution|etcdserver: no leader")


def token_refused(error: Exception) -> bool:
    """Whether logging in (again) may help: the token expired, its member was restarted, users were changed."""
    if isinstance(error, WatchRefusedError):
        return True
    if not isinstance(error, RpcError):
        return False
    details = error.details() or ""
    return error.code() is StatusCode.UNAUTHENTICATED or any(text in details for text in _LOG_IN_AGAIN)


_LOG_IN_AGAIN = ("revision of auth store is old", "user name is empty")


def explain(error: Exception, endpoint: Endpoint, timeout: float) -> StoreError:
    """The error of ours that says what ``error`` means, for people and for the callers of the store.

    Args:
        error: one of CALL_FAILURES.
        endpoint: whom was asked.
        timeout: seconds that it had.
    """
    about = f"etcd at {endpoint.url}"
    if isinstance(error, TimeoutError):
        return StoreUnavailableError(_no_answer(timeout), about=about)
    if isinstance(error, EOFError):
        return StoreUnavailableError("it closed the connection", about=about)
    if isinstance(error, WatchRefusedError):
        said = str(error).removeprefix("etcdserver: ")
        denied = "permission" in said or "token" in said or "auth" in said
        return _denied(said, about) if denied else StoreUnavailableError(said or "it cancelled the watch", about=about)
    assert isinstance(error, RpcError)
    code, details = error.code(), error.details() or ""
    said = details.removeprefix("etcdserver: ").removeprefix("mvcc: ")
    match code:
        case StatusCode.DEADLINE_EXCEEDED:
            return StoreUnavailableError(_no_answer(timeout), about=about)
        case StatusCode.UNAUTHENTICATED if _OTHER_NAME in details:  # gRPC's own word, and not about a user
            return _unreachable(details, code.name, about)
        case StatusCode.PERMISSION_DENIED | StatusCode.UNAUTHENTICATED:
            return _denied(said, about)
        case StatusCode.NOT_FOUND if "lease not found" in details:
            return LeaseNotFoundError("the etcd lease does not exist (any more)", about=about)
        case StatusCode.OUT_OF_RANGE if "has been compacted" in details:
            return CompactedError()
        case StatusCode.OUT_OF_RANGE if "is a future revision" in details:
            return StoreRestoredError()
        case StatusCode.FAILED_PRECONDITION if "lease already exists" in details:
            return LeaseExistsError(said, about=about)
        case StatusCode.INVALID_ARGUMENT if "authentication failed" in details or "user name is empty" in details:
            return _denied(said, about)
        case StatusCode.RESOURCE_EXHAUSTED if "space exceeded" in details:
            remedy = "compact and defragment it, or raise --quota-backend-bytes, then run 'etcdctl alarm disarm'"
            return StoreUnavailableError("its database is full", about=about, remedy=remedy)
        case StatusCode.RESOURCE_EXHAUSTED if "larger than max" not in details:
            return StoreUnavailableError(said or "it is overloaded", about=about)
        case StatusCode.RESOURCE_EXHAUSTED:
            return TooMuchAtOnceError(said, about=about)
        case StatusCode.INVALID_ARGUMENT if "too many operations" in details:
            remedy = "start it with a --max-txn-ops of 128, its default, or more"
            return TooMuchAtOnceError(said, about=about, remedy=remedy)
        case StatusCode.OUT_OF_RANGE if "compacted" in said:
            return CompactedError(0)
        case StatusCode.OUT_OF_RANGE if "future revision" in said:
            return StoreRestoredError(0)
        case _ if code in _ANSWERS:
            return StoreError(said or code.name, about=about)
    return _unreachable(details, code.name, about)


def all_failed(urls: Sequence[str], failures: Sequence[StoreError]) -> StoreError:
    """One error for those of the members at ``urls``: denied only if all that were asked refuse us.

    It has one remedy: what helps with a member that answered, rather than what finds one that did not.
    """
    if len(failures) == 1:
        return failures[0]
    denied = all(isinstance(failure, StoreDeniedError) for failure in failures)
    kind = StoreDeniedError if denied else StoreUnavailableError
    remedies = [failure.remedy for failure in failures if failure.remedy]
    remedy = min(remedies, key=lambda each: each == _IS_IT_THERE, default="")
    causes = {failure.cause for failure in failures}
    if len(causes) == 1:
        return kind(causes.pop(), about=f"etcd at {', '.join(urls)}", remedy=remedy)
    told = ", ".join(f"{failure.about.removeprefix('etcd at ')}: {failure.cause}" for failure in failures)
    return kind(told, about="etcd", remedy=remedy)


def _no_answer(timeout: float) -> str:
    return f"no answer within {timeout:g} s"


def _denied(said: str, about: str) -> StoreDeniedError:
    cause, remedy = said, "check --etcd-username and --etcd-password"
    if "user name is empty" in said:
        cause, remedy = "it asks for a user and a password", "give --etcd-username and --etcd-password"
    elif "authentication failed" in said:
        cause = "wrong user or password"
    elif "permission denied" in said:
        cause = "permission denied"
        remedy = "check --etcd-username and --etcd-password, and grant the user's role readwrite on the prefix"
    return StoreDeniedError(cause, about=about, remedy=remedy)


_IS_IT_THERE = "is etcd running there? check --etcd-endpoints"

_OTHER_NAME = "call host does not match"
"""gRPC takes a common name for the connection, and then subjectAltName alone for each call."""

_WRONG_NAME = (
    "its certificate is for another name or address, or for none",
    "use a name in the certificate, or issue one that has this name or address as subjectAltName",
)

_PLAIN_WORDS: tuple[tuple[str, str, str], ...] = (
    ("Connection refused", "connection refused", _IS_IT_THERE),
    ("No route to host", "no route to host", _IS_IT_THERE),
    ("Network is unreachable", "network is unreachable", _IS_IT_THERE),
    ("Hostname Verification", *_WRONG_NAME),
    (_OTHER_NAME, *_WRONG_NAME),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not signed by a trusted CA", "check --etcd-cafile"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS", "use http://"),
    ("Handshake read failed", "it broke off the TLS handshake", "use http:// if it does not speak TLS"),
    ("Socket closed", "it closed the connection", ""),
    ("Connection reset", "it closed the connection", ""),
    ("Broken pipe", "it closed the connection", ""),
    ("GOAWAY", "it closed the connection", ""),
    ("ping timeout", "it has stopped answering", ""),
    ("keepalive", "it has stopped answering", ""),
    ("Domain name not found", "its name cannot be resolved", "check the name, or use an address"),
    ("resolv", "its name cannot be resolved", "check the name, or use an address"),
    ("Failed parsing HTTP/2", "it is not an etcd v3 server", "check --etcd-endpoints"),
    ("http2 header with status", "it is not an etcd v3 server", "check --etcd-endpoints"),
    ("no leader", "it has no leader", ""),
    ("Deadline Exceeded", "connecting took too long", _IS_IT_THERE),
    ("FD Shutdown", "connecting took too long", _IS_IT_THERE),
    ("connection attempt timed out", "connecting took too long", _IS_IT_THERE),
    ("connect() timed out", "connecting took too long", _IS_IT_THERE),
    ("remote host: Connection timed out", "connecting took too long", _IS_IT_THERE),
    ("Connection timed out", "it has stopped answering", ""),
    ("handshaker shutdown", "connecting took too long", _IS_IT_THERE),
)
"""What gRPC's details contain, what it means, and what helps; the first that fits counts."""


def _unreachable(details: str, code: str, about: str) -> StoreError:
    if "TSI_DATA_CORRUPTED" in details or "ALERT" in details:
        # With TLS 1.3 a server rejects a client certificate after the handshake, which gRPC calls corrupted data.
        remedy = "check --etcd-certfile and --etcd-keyfile"
        return StoreDeniedError("it refuses our client certificate, or asks for one", about=about, remedy=remedy)
    for sign, cause, remedy in _PLAIN_WORDS:
        if sign in details:
            return StoreUnavailableError(cause, about=about, remedy=remedy)
    said = details.removeprefix("etcdserver: ").rsplit("last error: ", 1)[-1]
    return StoreUnavailableError(said or code.lower().replace("_", " "), about=about)
