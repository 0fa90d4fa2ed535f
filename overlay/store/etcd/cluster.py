"""A way to whichever member of an etcd cluster answers: one channel an endpoint, failover, and the user's token.

The members are tried in an order of this process's own, so that the clients of a member that dies spread over the
others; the one that answered last is asked first. A failed call is repeated at the next member only where that cannot
do a thing twice. Retrying later, and telling that it failed, is the caller's business: nothing here sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from overlay.errors import StoreError, StoreUnavailableError, TlsFilesError
from overlay.rates import Backoff, Patience
from overlay.store.etcd.errors import (
    CALL_FAILURES,
    WatchRefusedError,
    all_failed,
    explain,
    is_answer,
    never_sent,
    token_refused,
)
from overlay.store.etcd.rpc import RpcError, Stubs, channel_to, pb
from overlay.store.etcd.settings import Endpoint, EtcdSettings, TlsFiles

log = logging.getLogger(__name__)

T = TypeVar("T")

Metadata = tuple[tuple[str, str], ...]

REQUIRE_LEADER: Metadata = (("hasleader", "true"),)
"""Makes a member without quorum refuse at once instead of waiting in silence (etcd: rpctypes/metadatafields.go)."""


FIRST_LOGIN_WAIT = 1.0
"""Seconds, or half of them, before etcd is asked again for a token that it has refused, or that it refuses."""

MAX_LOGIN_WAIT = 60.0
"""Seconds at most: within that a password that is put right is noticed. Each login costs etcd a slow hash."""


MOST_PATIENCE = 24.0
"""Seconds that an overloaded member gets for one answer. One that is frozen is noticed before, by HTTP/2's pings."""


@dataclass(frozen=True, slots=True)
class Call:
    """What an attempt needs to talk to one member."""

    endpoint: Endpoint
    stubs: Stubs
    metadata: Metadata
    timeout: float

    async def unary(self, method: Any, request: Any) -> Any:
        """One request, one response; ``method`` is one of ``stubs``' own."""
        return await method(request, timeout=self.timeout, metadata=self.metadata)


@dataclass(slots=True)
class _Member:
    """One endpoint and the channel to it, opened when first used and again when the TLS files have changed."""

    endpoint: Endpoint
    tls: TlsFiles | None
    channel: Any = None
    _stubs: Stubs | None = field(default=None, repr=False)

    def stubs(self) -> Stubs:
        if self._stubs is None:
            self.channel = channel_to(self.endpoint, self.tls)
            self._stubs = Stubs(self.channel)
        return self._stubs

    async def close(self) -> None:
        await _close(self.take())

    def take(self) -> Any:
        """The channel, which is not used any more; None where there is none. The next call opens another."""
        channel, self.channel, self._stubs = self.channel, None, None
        return channel


class Cluster:
    """The members of one etcd cluster as one thing to call. Neither they nor the TLS files need to be there yet."""

    def __init__(self, settings: EtcdSettings) -> None:
        self._settings = settings
        members = settings.members()
        self._members = [_Member(endpoint, None) for endpoint in random.sample(members, len(members))]
        self._tls = any(endpoint.tls for endpoint in members)
        self._tls_stamp: tuple[int, ...] | None = None  # of the files in use
        self._first = 0
        self._patience = Patience(settings.timeout, max(settings.timeout, MOST_PATIENCE))
        self._token: str | None = None  # None: not logged in; empty: etcd does not ask for it
        self._logging_in = asyncio.Lock()
        self._logins = Backoff(FIRST_LOGIN_WAIT, MAX_LOGIN_WAIT, random.Random())
        self._login_due = 0.0
        self._login_refused: RpcError | None = None
        self._last_good: Endpoint | None = None
        self._closed = False

    @property
    def endpoint(self) -> Endpoint:
        """The member that is asked first: the one that answered last, or the next to try."""
        return self._members[self._first].endpoint

    async def call(
        self, attempt: Callable[[Call], Awaitable[T]], *, repeatable: bool = True, patient: bool = False
    ) -> T:
        """Carries out ``attempt`` at the first member that answers.

        Args:
            attempt: makes its requests through the :class:`Call` that it is given; may be called several times.
            repeatable: whether an attempt with unknown outcome may be made again at another member.
            patient: a member may take longer than the settings say if it was slow or gave no answer before; for what
                all clients of a cluster may ask for at once.

        Raises:
            StoreUnavailableError: no member answered, or (not ``repeatable``) the outcome is unknown.
            TlsFilesError: nothing was sent, since there are no usable TLS files yet.
            StoreDeniedError, StoreError: what the cluster answered.
        """
        if self._tls and self._tls_stamp is None:
            self._read_tls_files()
        limit = self._patience.limit if patient else self._settings.timeout
        failures: list[StoreError] = []
        for member in self._members[self._first :] + self._members[: self._first]:
            if self._closed:
                raise _closed()
            sent, began = False, time.monotonic()
            try:
                if self._settings.username and self._token is None:
                    await self._log_in(member, None)
                sent = True
                result = await self._with_token(member, attempt, limit)
            except CALL_FAILURES as error:
                failure = explain(error, member.endpoint, limit)
                if is_answer(error):
                    self._answered(member)
                    raise failure from None
                failures.append(failure)
                await self._pass_over(member)
                if sent and not repeatable and not never_sent(error):
                    break
            except asyncio.CancelledError:
                self.raise_if_closed()
                raise
            else:
                self._answered(member)
                if patient:
                    self._patience.answered(time.monotonic() - began)
                return result
        if patient:
            self._patience.gave_up()
        raise all_failed([member.url for member in self._settings.members()], failures)

    async def gone(self, error: Exception, endpoint: Endpoint, timeout: float) -> StoreError:
        """What the end of a stream from ``endpoint`` means; another member is asked first from now on.

        Args:
            error: how the stream ended, one of CALL_FAILURES.
            timeout: seconds that the member had to answer.
        """
        member = next(member for member in self._members if member.endpoint == endpoint)
        if not is_answer(error):
            await self._pass_over(member)
        return explain(error, endpoint, timeout)

    def raise_if_closed(self) -> None:
        """Tells gRPC's cancellation of its own calls, when a channel is closed under them, from that of our task.

        Raises:
            StoreUnavailableError: it was the channel.
        """
        task = asyncio.current_task()
        if task is not None and task.cancelling() == 0:
            raise _closed() from None

    async def reconnect(self) -> None:
        """Drops all connections, for new ones; calls and watches under way end with StoreUnavailableError.

        For when an address of this machine has gone: what a connection sends from there is never answered, and TCP
        would take minutes to say so.
        """
        for channel in [member.take() for member in self._members]:  # at once: calls may open new ones meanwhile
            await _close(channel)

    async def close(self) -> None:
        """Closes all channels; calls under way end with StoreUnavailableError."""
        self._closed = True
        for member in self._members:
            await member.close()

    async def _with_token(self, member: _Member, attempt: Callable[[Call], Awaitable[T]], limit: float) -> T:
        used = self._token
        try:
            return await attempt(self._call(member, limit))
        except (RpcError, WatchRefusedError) as error:
            if not (self._settings.username and token_refused(error)):
                raise
            if used is not None and used == self._token and time.monotonic() < self._login_due:
                raise  # a new token would be refused as this one is, which is hardly old
        await self._log_in(member, used)
        result = await attempt(self._call(member, limit))
        self._logins.reset()
        return result

    def _call(self, member: _Member, limit: float) -> Call:
        if self._closed:
            raise _closed()
        token: Metadata = (("token", self._token),) if self._token else ()
        return Call(member.endpoint, member.stubs(), REQUIRE_LEADER + token, limit)

    async def _log_in(self, member: _Member, refused: str | None) -> None:
        """Gets a token, unless another call has got one since ``refused`` was in use; etcd hashes slowly on purpose.

        What etcd has refused is not asked again at once, whoever calls: the same refusal is raised meanwhile.
        """
        async with self._logging_in:
            if self._token != refused:
                return
            if self._login_refused is not None and time.monotonic() < self._login_due:
                raise self._login_refused.with_traceback(None)
            request = pb.AuthenticateRequest(name=self._settings.username, password=self._settings.password)
            try:
                answer = await member.stubs().auth.Authenticate(request, timeout=self._settings.timeout)
            except RpcError as error:
                if "authentication is not enabled" not in (error.details() or ""):
                    if is_answer(error):
                        self._login_due = time.monotonic() + self._logins.next()
                        self._login_refused = error
                    raise
                log.warning("etcd does not ask for a user: --etcd-username is not used until it does")
                self._token = ""
            else:
                self._token = answer.token
                self._login_due = time.monotonic() + self._logins.next()
            self._login_refused = None

    def _answered(self, member: _Member) -> None:
        self._first = self._members.index(member)
        if self._last_good not in (None, member.endpoint):
            log.info("etcd is now used at %s", member.endpoint.url)
        self._last_good = member.endpoint

    async def _pass_over(self, member: _Member) -> None:
        """Another member comes first from now on; certificates renewed on disk meanwhile are used from now on."""
        if self._members[self._first] is member:
            self._first = (self._first + 1) % len(self._members)
        if member.endpoint.tls and TlsFiles.stamp(self._settings) != self._tls_stamp:
            with contextlib.suppress(TlsFilesError):  # half written just now; the next failure reads them again
                self._read_tls_files()
                log.info("the TLS files for etcd have changed and are used from now on")
                await self.reconnect()

    def _read_tls_files(self) -> None:
        """For all connections from now on. Raises TlsFilesError."""
        stamp = TlsFiles.stamp(self._settings)
        files = TlsFiles.read(self._settings)
        self._tls_stamp = stamp
        for member in self._members:
            member.tls = files


async def _close(channel: Any) -> None:
    if channel is not None:
        await channel.close()


def _closed() -> StoreUnavailableError:
    return StoreUnavailableError("the connection was closed", about="etcd")
