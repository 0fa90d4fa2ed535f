"""Certificates, tokens and kubeconfigs on disk; who may do what."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from overlay.api import certificates, place
from overlay.api.auth import Tokens
from overlay.errors import FileError
from overlay.services.objects.status import StatusError

_TOKENS = Tokens("write-token", "read-token")


@pytest.mark.parametrize(
    ("authorization", "method", "code"),
    [
        ("Bearer write-token", "GET", 0), ("Bearer write-token", "DELETE", 0), ("bearer write-token", "PUT", 0),
        ("Bearer read-token", "GET", 0), ("Bearer read-token", "POST", 403), ("Bearer read-token", "PATCH", 403),
        ("", "GET", 401), ("Bearer ", "GET", 401), ("Bearer x", "GET", 401), ("Basic write-token", "GET", 401),
        ("Bearer write-token2", "GET", 401), ("write-token", "GET", 401), ("Bearer \udcff", "GET", 401),
    ],
)  # fmt: skip
def test_who_may_do_what(authorization: str, method: str, code: int) -> None:
    if not code:
        _TOKENS.check(authorization, method)
        return
    with pytest.raises(StatusError) as raised:
        _TOKENS.check(authorization, method)
    assert raised.value.code == code


def test_an_empty_token_is_nobodys() -> None:
    for authorization in ("Bearer ", "Bearer", ""):
        with pytest.raises(StatusError):
            Tokens("", "").check(authorization, "GET")


def test_an_identity_is_kept(tmp_path: Path) -> None:
    first = place.kept(tmp_path / "api")
    assert place.kept(tmp_path / "api") == first
    assert stat.S_IMODE((tmp_path / "api").stat().st_mode) == 0o700
    assert [stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "api").iterdir()] == [0o600]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"authority": 1}', '{"write": "x"}'])
def test_an_identity_that_is_damaged_is_made_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "identity.json").write_text(content)
    place.kept(tmp_path).tls()


def test_an_identity_that_ends_soon_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "VALID", place.RENEW_BEFORE / 2)
        old = place.kept(tmp_path)
    new = place.kept(tmp_path)
    assert new != old
    assert certificates.expires(new.certificates.certificate) > datetime.now(UTC) + place.RENEW_BEFORE


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_clients_that_take_rfc_5280_by_the_letter_take_the_certificate(host: str) -> None:
    """As Python's do from 3.13 on."""
    identity = place.Identity.new()
    context = ssl.create_default_context(cadata=identity.certificates.authority.decode())
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = identity.tls().wrap_bio(to_server, to_client, server_side=True)
    client = context.wrap_bio(to_client, to_server, server_hostname=host)
    for _ in range(3):
        for end in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    assert client.version() is not None
    assert client.getpeercert()


@pytest.mark.parametrize("made", [datetime(1970, 1, 1, 0, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)])
def test_a_certificate_lasts_whatever_the_clock_was_when_it_was_made(made: datetime) -> None:
    """A machine without a clock of its own begins in 1970; then the clock is put right, and the server goes on."""
    certificate = x509.load_pem_x509_certificate(certificates.make(made).certificate)
    for now in (made, datetime(2026, 11, 1, tzinfo=UTC), datetime(2034, 1, 1, tzinfo=UTC)):
        assert certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def test_an_identity_that_such_clients_do_not_take_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an older version."""
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "_told_apart", lambda builder, *_: builder)
        old = place.kept(tmp_path)
    new = place.kept(tmp_path)
    assert new != old
    assert place.kept(tmp_path) == new


def test_kubeconfigs_are_for_the_group(tmp_path: Path) -> None:
    identity = place.Identity.new()
    for path, token in zip(
        place.publish(identity, 6443, tmp_path / "run" / "kubeconfig"),
        (identity.tokens.write, identity.tokens.read),
        strict=True,
    ):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        document = json.loads(path.read_text())
        assert document["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:6443"
        authority = document["clusters"][0]["cluster"]["certificate-authority-data"]
        assert base64.b64decode(authority) == identity.certificates.authority
        assert document["users"][0]["user"] == {"token": token}
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o750


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r".*") as raised:
        place.kept(tmp_path / "file" / "api")
    assert str(tmp_path / "file") in str(raised.value)
