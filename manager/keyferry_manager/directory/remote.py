"""The manager's end of a directory in another process: HTTP on a Unix socket, and a cache.

An issued certificate never changes, so what was read once is read from memory from then on: a
device that comes back does not wait for the directory, and no message ever does.
"""

import base64
import contextlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import httpx

from keyferry_manager.directory import DirectoryUnavailable
from keyferry_manager.store import AuditEntry, SessionRow, Store
from keyferry_manager.store.records import AgreementKey, Certificate, LinkRow

# Seconds for an answer, bytes of it, and certificates that are remembered (about 1 KiB each).
_SECONDS = 5.0
_MAX_ANSWER = 4 * 1024 * 1024
_REMEMBERED = 20_000
# Keys in one request and in one answer.
PAGE = 500


class RemoteDirectory:
    """A directory behind the socket ``path``."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=path, retries=1),
            base_url="http://directory",
            timeout=_SECONDS,
            trust_env=False,
        )
        self._known: OrderedDict[str, Certificate] = OrderedDict()

    async def close(self) -> None:
        """Close what is open."""
        with contextlib.suppress(httpx.HTTPError, OSError):
            await self._client.aclose()

    async def certificate_by_serial(self, serial: str) -> Certificate | None:
        """From memory, or from the directory. What is not there is asked for again each time."""
        known = self._known.get(serial)
        if known is not None:
            self._known.move_to_end(serial)
            return known
        status, document = await self._ask("GET", f"/certificates/{serial}")
        if status == 404:
            return None
        if status != 200:
            raise DirectoryUnavailable(f"the directory answered {status}")
        certificate = _certificate(document)
        if certificate.serial != serial:
            raise DirectoryUnavailable("the directory answered with another certificate")
        self._remember(certificate)
        return certificate

    async def publish(self, certificate: Certificate) -> None:
        """Register an issued certificate."""
        document = {
            "der": base64.b64encode(certificate.der).decode(),
            "admission": certificate.admission,
            "issued_at": certificate.issued_at,
        }
        status, _ = await self._ask("POST", "/certificates", document)
        if status != 204:
            raise DirectoryUnavailable(f"the directory did not take a certificate: {status}")
        self._remember(certificate)

    async def agreement_keys(self) -> list[AgreementKey]:
        """Every key, page by page."""
        found: list[AgreementKey] = []
        after = ""
        while True:
            status, document = await self._ask("GET", f"/keys?after={after}")
            if status != 200 or not isinstance(document, list):
                raise DirectoryUnavailable(f"the directory answered {status}")
            page = [_key(item) for item in document]
            found += page
            if len(page) < PAGE:
                return found
            if page[-1].device <= after:
                raise DirectoryUnavailable("the directory's pages do not end")
            after = page[-1].device

    async def publish_keys(self, keys: Sequence[AgreementKey]) -> None:
        """Register keys, a page at a time."""
        for start in range(0, len(keys), PAGE):
            document = [key_document(key) for key in keys[start : start + PAGE]]
            status, _ = await self._ask("POST", "/keys", document)
            if status != 204:
                raise DirectoryUnavailable(f"the directory did not take a key: {status}")

    def _remember(self, certificate: Certificate) -> None:
        self._known[certificate.serial] = certificate
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    async def _ask(self, method: str, path: str, document: object = None) -> tuple[int, Any]:
        body = b"" if document is None else json.dumps(document).encode()
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            async with self._client.stream(method, path, content=body, headers=headers) as response:
                found = bytearray()
                async for part in response.aiter_raw():
                    found += part
                    if len(found) > _MAX_ANSWER:
                        raise DirectoryUnavailable("the directory's answer is too large")
                document = json.loads(found) if response.is_success and found else None
                return response.status_code, document
        except (httpx.HTTPError, ValueError) as error:
            why = str(error) or type(error).__name__
            raise DirectoryUnavailable(
                f"the directory at {self._path} does not answer: {why}"
            ) from None


class KeysElsewhere:
    """The sink of a BatchWriter whose keys go to the directory; everything else to the store."""

    def __init__(self, store: Store, directory: RemoteDirectory) -> None:
        self._store = store
        self._directory = directory
        self._waiting: dict[str, AgreementKey] = {}

    async def write(
        self,
        *,
        audit: Sequence[AuditEntry] = (),
        sessions: Iterable[SessionRow] = (),
        links: Mapping[str, LinkRow | None] | None = None,
        keys: Iterable[AgreementKey] = (),
    ) -> None:
        """Write what is the store's now; ``flush`` sees to the keys."""
        await self._store.write(audit=audit, sessions=sessions, links=links)
        self._waiting.update((key.device, key) for key in keys)

    async def flush(self) -> None:
        """Register what waits. DirectoryUnavailable; it waits on then."""
        waiting = dict(self._waiting)
        if not waiting:
            return
        await self._directory.publish_keys(list(waiting.values()))
        for device, key in waiting.items():
            if self._waiting.get(device) is key:
                del self._waiting[device]


def key_document(key: AgreementKey) -> dict[str, Any]:
    """A key as JSON has it."""
    return {
        **asdict(key),
        "endorsed": base64.b64encode(key.endorsed).decode(),
        "signer": base64.b64encode(key.signer).decode(),
    }


def _key(document: Any) -> AgreementKey:
    try:
        return AgreementKey(
            str(document["device"]),
            str(document["key_id"]),
            base64.b64decode(document["endorsed"], validate=True),
            base64.b64decode(document["signer"], validate=True),
            float(document["registered_at"]),
        )
    except (KeyError, TypeError, ValueError):
        raise DirectoryUnavailable("the directory's answer is malformed") from None


def _certificate(document: Any) -> Certificate:
    try:
        der = base64.b64decode(document["der"], validate=True)
        return Certificate(**{**document, "der": der})
    except (KeyError, TypeError, ValueError):
        raise DirectoryUnavailable("the directory's answer is malformed") from None
