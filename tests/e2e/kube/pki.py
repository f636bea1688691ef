"""A cluster's certificates and kubeconfigs, made anew for each cluster."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE: Final = dt.timedelta(days=7)
_EARLIER: Final = dt.timedelta(minutes=5)
_USES: Final = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


@dataclass(frozen=True)
class Pair:
    """The files of a certificate and its key."""

    certificate: Path
    key: Path


class Pki:
    """One authority, and what it has signed, as files of a folder."""

    def __init__(self, folder: Path) -> None:
        """Make the folder and the authority."""
        folder.mkdir(parents=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("cgpu-e2e", ())
        constraint = x509.BasicConstraints(ca=True, path_length=0)
        builder = self._builder(self._name, self._key.public_key()).add_extension(constraint, critical=True)
        self.authority = self._write("ca", builder.sign(self._key, hashes.SHA256()), self._key).certificate
        self.service_accounts = folder / "service-accounts.key"
        self.service_accounts.write_bytes(_pem(ec.generate_private_key(ec.SECP256R1())))

    def sign(self, file: str, common_name: str, *, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> Pair:
        """A certificate for a client of that name and groups, or for a server at those names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_name(common_name, groups), key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage(_USES), critical=False)
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        return self._write(file, builder.sign(self._key, hashes.SHA256()), key)

    def kubeconfig(self, file: str, server: str, common_name: str, *, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig with a certificate of its own."""
        pair = self.sign(file, common_name, groups=groups)
        user = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "e2e", "cluster": {"server": server, "certificate-authority": str(self.authority)}}],
            "users": [{"name": file, "user": user}],
            "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": file}}],
            "current-context": "e2e",
        }
        path = self._folder / f"{file}.kubeconfig"
        path.write_text(yaml.safe_dump(document))
        return path

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _EARLIER)
            .not_valid_after(now + _LIFE)
        )

    def _write(self, file: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
        pair = Pair(self._folder / f"{file}.crt", self._folder / f"{file}.key")
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(_pem(key))
        return pair


def _name(common_name: str, groups: Sequence[str]) -> x509.Name:
    organisations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organisations, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
