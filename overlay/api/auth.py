"""Who may do what: one token for everything, one for reading. Compared in constant time; pure."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass

from overlay.services.objects.status import StatusError

READING = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens that are taken. An empty one is none."""

    write: str
    read: str = ""

    @classmethod
    def new(cls) -> Tokens:
        """Two of 256 random bits."""
        return cls(secrets.token_urlsafe(32), secrets.token_urlsafe(32))

    def check(self, authorization: str, method: str) -> None:
        """Raises StatusError: (401) no token, or a wrong one; (403) one that may only read."""
        scheme, _, given = authorization.partition(" ")
        token = given.strip().encode(errors="surrogateescape") if scheme.lower() == "bearer" else b""
        if self.write and hmac.compare_digest(token, self.write.encode()):
            return
        if self.read and hmac.compare_digest(token, self.read.encode()):
            if method in READING:
                return
            raise StatusError(403, "Forbidden", "this token may only read; the other kubeconfig may write")
        raise StatusError(401, "Unauthorized", "Unauthorized")
