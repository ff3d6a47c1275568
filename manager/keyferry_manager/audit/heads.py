"""Signed heads of the audit trail: the number and hash of an entry that was there at a moment.

A chain shows a change in its middle. That its end was cut off, or that all of it was written anew
by somebody who can write to the database, shows only against a head kept elsewhere. The manager
signs one with the key of its own certificate, every minute in which something happened, into
``audit-head.json`` in its home; ``keyferry audit head`` gives one to keep on another machine.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from keyferry_manager.authority import files
from keyferry_manager.problems import Problem

if TYPE_CHECKING:
    from keyferry_manager.store import Store

FILE_NAME = "audit-head.json"
_PURPOSE = "keyferry audit head"
_MAX_FILE = 65536


class HeadProblem(Problem):
    """A signed head that cannot be read, or was not signed by this manager."""


@dataclass(frozen=True, slots=True)
class Head:
    """Entry ``entry`` had the hash ``hash`` at ``at`` (Unix seconds)."""

    entry: int
    hash: str
    at: float

    def _signed(self, realm: str) -> bytes:
        content = [_PURPOSE, realm, self.entry, self.hash, self.at]
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def sign(head: Head, realm: str, server_file: Path) -> dict[str, Any]:
    """A head as a JSON document with a signature (ECDSA, SHA-256) and the certificates for it."""
    key = files.load_key(server_file)
    chain = files.certificate_pem(*files.load_certificates(server_file))
    signature = key.sign(head._signed(realm), ec.ECDSA(hashes.SHA256()))
    return {
        "entry": head.entry,
        "hash": head.hash,
        "at": head.at,
        "realm": realm,
        "signature": base64.b64encode(signature).decode(),
        "certificates": chain.decode(),
    }


def check(document: object, *roots: x509.Certificate) -> Head:
    """The head that a document says, its signature checked up to one of ``roots``: there are
    several where a CA rolled over.

    Without any nothing is checked but its form. HeadProblem for anything amiss. Dates of the
    certificates are not looked at: a head is kept for longer than they last.
    """
    if not isinstance(document, dict):
        raise HeadProblem("the signed head is not a JSON object.")
    entry, digest, at = document.get("entry"), document.get("hash"), document.get("at")
    realm, signature = document.get("realm"), document.get("signature")
    pem = document.get("certificates")
    if (
        not isinstance(entry, int)
        or isinstance(entry, bool)
        or not isinstance(digest, str)
        or not isinstance(at, int | float)
        or not isinstance(realm, str)
        or not isinstance(signature, str)
        or not isinstance(pem, str)
    ):
        raise HeadProblem("the signed head lacks a member, or one has the wrong type.")
    head = Head(entry, digest.lower(), at)
    if not roots:
        return head
    for root in roots[:-1]:
        with contextlib.suppress(HeadProblem):
            return _believed(head, realm, signature, pem, root)
    return _believed(head, realm, signature, pem, roots[-1])


def _believed(head: Head, realm: str, signature: str, pem: str, root: x509.Certificate) -> Head:
    try:
        chain = x509.load_pem_x509_certificates(pem.encode())
        for certificate, issuer in zip(chain, [*chain[1:], root], strict=True):
            if certificate != issuer:
                certificate.verify_directly_issued_by(issuer)
        leaf = chain[0]
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        key = leaf.public_key()
        # A device's certificate is from the same CA, and must not speak for the manager.
        if (
            ExtendedKeyUsageOID.SERVER_AUTH not in usage
            or realm not in names.get_values_for_type(x509.DNSName)
            or not isinstance(key, ec.EllipticCurvePublicKey)
        ):
            raise HeadProblem("the head of the audit trail was not signed by a manager.")
        raw = base64.b64decode(signature, validate=True)
        key.verify(raw, head._signed(realm), ec.ECDSA(hashes.SHA256()))
    except HeadProblem:
        raise
    except (
        *files.UNREADABLE,
        TypeError,
        IndexError,
        InvalidSignature,
        x509.ExtensionNotFound,
        binascii.Error,
    ):
        raise HeadProblem(
            f"the signature on the head of the audit trail (entry {head.entry}) does not hold: it "
            "was changed, or another manager signed it."
        ) from None
    return head


def read(path: Path, *roots: x509.Certificate) -> Head:
    """The signed head in a file."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise HeadProblem(f"{path} cannot be read: {error.strerror}.") from None
    try:
        return check(json.loads(data[:_MAX_FILE]), *roots)
    except ValueError:
        raise HeadProblem(f"{path} holds no signed head: it is no JSON.") from None


class HeadKeeper:
    """Keeps the signed head of a running manager's trail in its home."""

    def __init__(self, store: "Store", realm: str, home: Path, server_file: Path) -> None:
        self._store = store
        self._realm = realm
        self._path = home / FILE_NAME
        self._server_file = server_file
        self._kept = ""

    async def keep(self) -> None:
        """Sign the head that the database has now, when it is another than the last time."""
        last = await self._store.audit_entries(1)
        if not last or last[0].hash == self._kept:
            return
        head = Head(last[0].id, last[0].hash, round(time.time(), 3))
        await asyncio.to_thread(self._write, head)
        self._kept = head.hash

    def _write(self, head: Head) -> None:
        document = sign(head, self._realm, self._server_file)
        files.replace(self._path, (json.dumps(document) + "\n").encode(), files.PRIVATE)
