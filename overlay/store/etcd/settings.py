"""How to reach etcd: endpoints, TLS files and credentials, checked before anything is sent.

Nothing here needs gRPC, so that a command line can check its flags without loading it.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from overlay.errors import TlsFilesError, UsageError
from overlay.linux.files import read_regular

CLIENT_PORT = 2379
"""etcd's port for clients (IANA: etcd-client), used where an endpoint names none."""

DEFAULT_ENDPOINTS = ("http://127.0.0.1:4001", "http://127.0.0.1:2379")
"""flanneld's default of ``--etcd-endpoints`` (main.go)."""

CALL_TIMEOUT = 3.0
"""Seconds that one endpoint gets to answer: an election takes etcd 1 to 2 s with its default timings."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One member of the cluster as a client dials it.

    Attributes:
        url: as it is shown to people, ``http://127.0.0.1:2379``.
        host: a name or an address; IPv6 without brackets.
        port: TCP port.
        tls: whether the connection is encrypted (``https``).
    """

    url: str = field(compare=False)
    host: str
    port: int
    tls: bool

    @classmethod
    def parse(cls, text: str, *, bare_tls: bool = False) -> Self:
        """Reads ``http[s]://host[:port]``, or a bare ``host:port`` as etcd's own client takes it.

        Args:
            text: the endpoint; an IPv6 address stands in brackets.
            bare_tls: whether an endpoint without a scheme means TLS (etcd's client: if TLS files are given).

        Raises:
            UsageError: it is not such a URL.
        """
        text = text.strip()
        url = text if "://" in text else f"{'https' if bare_tls else 'http'}://{text}"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise _bad_endpoint(text, f"not a URL ({error})") from None
        if parts.scheme not in ("http", "https"):
            raise _bad_endpoint(text, f"scheme {parts.scheme!r} is neither http nor https")
        if not host or any(character.isspace() for character in host):
            raise _bad_endpoint(text, "no host")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise _bad_endpoint(text, "has more than a host and a port")
        if parts.username is not None or parts.password is not None:
            raise UsageError(
                "a user or password does not belong into the URL",
                about=f"etcd endpoint at {host}",
                remedy="use --etcd-username and --etcd-password",
            )
        if port == 0:
            raise _bad_endpoint(text, "port 0")
        return cls(url.rstrip("/"), host, port or CLIENT_PORT, parts.scheme == "https")

    @property
    def target(self) -> str:
        """``host:port`` with the brackets that IPv6 needs."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _bad_endpoint(text: str, cause: str) -> UsageError:
    return UsageError(
        cause, about=f"etcd endpoint {text!r}", remedy="use http://HOST:PORT or https://HOST:PORT, separated by commas"
    )


@dataclass(frozen=True, slots=True)
class EtcdSettings:
    """Where etcd is and who we are to it; the members are flanneld's ``--etcd-…`` flags.

    Attributes:
        endpoints: URLs of members of one cluster.
        cafile, certfile, keyfile: PEM files; empty for none. A CA alone is enough for TLS, and with none the machine's
            own CAs are trusted.
        username, password: of an etcd user, both or neither.
        timeout: seconds that one endpoint gets to answer one call.

    Raises:
        UsageError: a member has the wrong form, or two do not go together. Files are read by :class:`TlsFiles`.
    """

    endpoints: tuple[str, ...] = DEFAULT_ENDPOINTS
    cafile: str = ""
    certfile: str = ""
    keyfile: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    timeout: float = CALL_TIMEOUT

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise UsageError("no endpoint", about="etcd endpoints", remedy="give at least one to --etcd-endpoints")
        if bool(self.certfile) != bool(self.keyfile):
            given, missing = ("certfile", "keyfile") if self.certfile else ("keyfile", "certfile")
            raise UsageError(
                f"--etcd-{missing} is missing", about=f"--etcd-{given} {getattr(self, given)}", remedy="give both"
            )
        if bool(self.username) != bool(self.password):
            given, missing = ("username", "password") if self.username else ("password", "username")
            raise UsageError(f"--etcd-{missing} is missing", about=f"--etcd-{given}", remedy="give both or neither")
        if self.timeout <= 0:
            raise UsageError(f"{self.timeout:g} s is not positive", about="etcd timeout")
        for endpoint in self.members():
            if self.tls and not endpoint.tls:
                raise UsageError(
                    "TLS files are given, but http would not use them",
                    about=f"etcd endpoint {endpoint.url}",
                    remedy="write https://, or leave out --etcd-cafile, --etcd-certfile and --etcd-keyfile",
                )

    @property
    def tls(self) -> bool:
        """Whether any TLS file is given."""
        return bool(self.cafile or self.certfile)

    def members(self) -> tuple[Endpoint, ...]:
        """The endpoints, parsed, in the given order, each once."""
        return tuple(dict.fromkeys(Endpoint.parse(text, bare_tls=self.tls) for text in self.endpoints))


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The contents of the PEM files; None where there is none."""

    ca: bytes | None
    certificate: bytes | None
    key: bytes | None = field(repr=False)

    @classmethod
    def read(cls, settings: EtcdSettings) -> Self:
        """Reads and checks the files that ``settings`` names; without a CA file, those the machine trusts.

        Raises:
            TlsFilesError: a file cannot be read, is not PEM, or key and certificate do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        ca = _read(settings.cafile, "--etcd-cafile") if settings.cafile else _machine_cas()
        if settings.cafile:
            try:
                context.load_verify_locations(cafile=settings.cafile)
            except (ssl.SSLError, OSError):
                raise _not_pem("--etcd-cafile", settings.cafile, "holds no PEM certificate") from None
        if not settings.certfile:
            return cls(ca, None, None)
        certificate, key = _read(settings.certfile, "--etcd-certfile"), _read(settings.keyfile, "--etcd-keyfile")
        if b"-----BEGIN CERTIFICATE-----" not in certificate:
            raise _not_pem("--etcd-certfile", settings.certfile, "holds no PEM certificate")
        if b"PRIVATE KEY-----" not in key:
            raise _not_pem("--etcd-keyfile", settings.keyfile, "holds no PEM private key")
        try:
            context.load_cert_chain(settings.certfile, settings.keyfile, password=_refuse_passphrase)
        except _EncryptedKeyError:
            raise _not_pem("--etcd-keyfile", settings.keyfile, "the key has a passphrase") from None
        except (ssl.SSLError, OSError):
            files = f"{settings.certfile} and --etcd-keyfile {settings.keyfile}"
            raise _not_pem("--etcd-certfile", files, "damaged, or not a pair") from None
        return cls(ca, certificate, key)

    @staticmethod
    def stamp(settings: EtcdSettings) -> tuple[int, ...]:
        """When the files were last changed, in ns; cheap, to know whether to read them again. 0 for a missing one."""

        def changed(path: str) -> int:
            try:
                return Path(path).stat().st_mtime_ns
            except OSError:
                return 0

        return tuple(changed(path) for path in (settings.cafile, settings.certfile, settings.keyfile) if path)


class _EncryptedKeyError(Exception):
    """The key asks for a passphrase; OpenSSL would otherwise prompt for it on the terminal."""


def _refuse_passphrase() -> str:
    raise _EncryptedKeyError


_MAX_PEM_BYTES = 4 << 20
"""All CAs that browsers know are 200 KB."""


def _read(path: str, flag: str) -> bytes:
    try:
        return read_regular(Path(path), _MAX_PEM_BYTES)
    except OSError as error:
        cause = f"cannot be read: {(error.strerror or str(error)).lower()}"
        raise TlsFilesError(cause, about=f"{flag} {path}", remedy="name a readable PEM file") from None


def _not_pem(flag: str, path: str, cause: str) -> TlsFilesError:
    return TlsFilesError(cause, about=f"{flag} {path}", remedy="give files in PEM form, the key without a passphrase")


CA_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
"""Where Debian, Fedora and openSUSE keep the CAs that the machine trusts (Go: crypto/x509/root_linux.go)."""


def _machine_cas() -> bytes | None:
    """The CAs that the machine trusts, as other programs on it do; None, so gRPC's own, where they are not found."""
    for path in (ssl.get_default_verify_paths().cafile, *CA_BUNDLES):
        if path and (bundle := Path(path)).is_file():
            return bundle.read_bytes()
    return None
