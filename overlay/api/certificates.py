"""A certificate authority of this host's own, and a certificate for 127.0.0.1 signed by it."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID = datetime.timedelta(days=3650)
_BACKDATED = datetime.timedelta(hours=1)
"""Clocks are set back now and then."""

_WRITTEN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
"""No clock that is right shows less: a machine without one of its own begins in 1970, until it has asked somebody."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a server needs, as PEM. ``authority`` goes to the clients; its key is thrown away once it has signed."""

    authority: bytes
    certificate: bytes
    key: bytes


def make(now: datetime.datetime) -> Certificates:
    """A new authority and a certificate for 127.0.0.1, ::1 and localhost, of elliptic curve P-256."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "overlay API authority of this host")])
    authority = (
        _told_apart(_builder(now, ca_name, ca_name, ca_key), ca_key, ca_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "overlay API")])
    certificate = (
        _told_apart(_builder(now, name, ca_name, key), key, ca_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
                    x509.IPAddress(ipaddress.IPv6Address("::1")),
                    x509.DNSName("localhost"),
                ]
            ),
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Certificates(authority.public_bytes(pem), certificate.public_bytes(pem), private)


def expires(certificate: bytes) -> datetime.datetime:
    """When a certificate in PEM ends."""
    loaded = x509.load_pem_x509_certificate(certificate)
    return loaded.not_valid_after_utc


def is_by_the_letter(certificate: bytes) -> bool:
    """Whether a certificate in PEM names its signer's key, without which strict clients do not take it."""
    extensions = x509.load_pem_x509_certificate(certificate).extensions
    return any(isinstance(each.value, x509.AuthorityKeyIdentifier) for each in extensions)


def _told_apart(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    """With its own key and its signer's named (RFC 5280, 4.2.1.1 and 4.2.1.2): OpenSSL's X509_V_FLAG_X509_STRICT, which
    Python sets from 3.13 on, wants both."""
    return builder.add_extension(
        x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
    ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)


def _builder(
    now: datetime.datetime, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(max(now, _WRITTEN) + VALID)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature, key_cert_sign=key_cert_sign, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, crl_sign=False, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip
