"""Enrolment: a key made here, and a certificate for it by EST (RFC 7030) over HTTPS.

The first certificate is asked for with the factory identity, or with the device's name and its
one-time token; later ones with the certificate in use. What comes back is believed only when it
stands under the realm's root, names this device and carries this device's own key.

Only needed now and then: the agent forgets this module after use.
"""

import asyncio
import gc

from keyferry_agent import clock
from keyferry_agent import config as files
from keyferry_agent.config import ConfigError
from keyferry_agent.errors import EnrolmentLater, EnrolmentRefused, explain
from keyferry_agent.store import pack_held
from keyferry_core import csr, x509
from keyferry_core._compat import CPYTHON, equal
from keyferry_core.errors import AuthenticationError, RemoteError, code_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tls import SSLContext

    from keyferry_agent.store import Store
    from keyferry_core import est_codec
    from keyferry_core.suite import Crypto

# Seconds for one answer; the TLS handshake counts with the first.
ANSWER_TIMEOUT = 30
_PATH = "/.well-known/est/"
_BODY = 12288
_READ = 512
# Statuses that say "not now": 202 is a request that waits for a person (section 4.2.3).
_LATER = (202, 408, 429)
# Errors by status, for servers that do not name them.
_NAMES = {202: "timeout", 401: "bad-credentials", 403: "access-denied", 429: "too-many"}


async def simpleenroll(
    config: "files.Config",
    store: "Store",
    crypto: "Crypto",
    event: "Callable[..., None]",
    opener: "Callable[..., Awaitable] | None" = None,
) -> None:
    """Get the first certificate and put it into the store (section 4.2.1).

    The key is in the store before it is used, so a retry asks for a certificate of the same key.
    Raises EnrolmentRefused, ConfigError, EnrolmentLater, or another KeyferryError after which a
    retry may work.
    """
    factory = files.factory(config)
    token = None if factory else files.token(config)
    if factory is None and token is None:
        raise ConfigError("neither factory.crt and factory.key nor token: nothing to enrol with")
    from keyferry_core import est_codec

    private = _pending_key(store, crypto, event)
    if not store.roomy:
        store.make_room()  # a token is good for one certificate
        store.roomy = True
    public = crypto.public_key(private)
    certificate, key = factory or (None, None)
    authorization = est_codec.basic(config.name, token) if token else ""
    exchange = _Exchange(config, store, certificate, key, opener)
    event("enrol-start", host=config.host, by="factory" if factory else "token")
    await _enrol(
        config, store, crypto, event, exchange, "simpleenroll", private, public, authorization
    )
    files.remove_token(config)


async def simplereenroll(
    config: "files.Config",
    store: "Store",
    crypto: "Crypto",
    event: "Callable[..., None]",
    new_key: bool = False,
    tls: "SSLContext | None" = None,
    opener: "Callable[..., Awaitable] | None" = None,
    wanted: bytes = b"",
) -> None:
    """Renew the certificate in use, for the same key or a new one (section 4.2.2).

    ``tls``: a context that presents it, if there is one; another takes 3 KiB. ``wanted``: what the
    manager wants to be stated in ANCHORS; then the CA certificates are fetched, and the renewal is
    left out while the CA that signs is the one over the certificate in use. Raises as
    ``simpleenroll``. Until it returns, the old identity stays in the store.
    """
    private, public = renewal_key(store, crypto, event, new_key)
    assert store.identity is not None
    _, _, current, certificate, _ = store.identity
    key = csr.private_key_der(current, x509.parse(certificate).public_key)
    exchange = _Exchange(config, store, certificate, key, opener, tls)
    event("enrol-start", host=config.host, by="certificate")
    await _enrol(
        config, store, crypto, event, exchange, "simplereenroll", private, public, "", wanted
    )


def renewal_key(
    store: "Store", crypto: "Crypto", event: "Callable[..., None]", new_key: bool
) -> tuple[bytes, bytes]:
    """(private, public) that the next certificate is for: those in use, or new ones."""
    if store.identity is None:
        raise ConfigError("there is no identity to renew")
    if new_key:
        private = _pending_key(store, crypto, event)
        return private, crypto.public_key(private)
    return store.identity[2], x509.parse(store.identity[3]).public_key


def _pending_key(store: "Store", crypto: "Crypto", event: "Callable[..., None]") -> bytes:
    private = store.pending
    if private is None:
        private, _ = crypto.generate()
        store.set_pending(private)
        event("key-made", curve="P-256")
    else:
        event("key-reused", curve="P-256")
    return private


async def _enrol(
    config: "files.Config",
    store: "Store",
    crypto: "Crypto",
    event: "Callable[..., None]",
    exchange: "_Exchange",
    operation: str,
    private: bytes,
    public: bytes,
    authorization: str,
    wanted: bytes = b"",
) -> None:
    from keyferry_core import est_codec

    body = b""
    try:
        try:
            kept, issuers = await _authorities(config, store, crypto, event, exchange, wanted)
            gc.collect()
            if issuers:
                der = csr.certificate_request(crypto, private, public, config.name, config.realm)
                event("certificate-request", bytes=len(der))
                request = est_codec.encode_request(der)
                gc.collect()
                body = (await exchange.ask("POST", operation, request, authorization)).body
        finally:
            await exchange.close()
        gc.collect()  # what TLS took is free for what goes to flash
        held = pack_held(*kept)
        if issuers:
            found = est_codec.parse_certs(body)
            take(config, store, crypto, event, private, public, found, issuers, held)
        else:
            store.set_held(held)
    except Exception as error:  # also a lack of memory: whatever it was, a retry may work
        raise explain(error) from None


async def _authorities(
    config: "files.Config",
    store: "Store",
    crypto: "Crypto",
    event: "Callable[..., None]",
    exchange: "_Exchange",
    wanted: bytes,
) -> tuple[tuple, list]:
    """What to keep of the CA certificates that there are now, for ``pack_held``, and the CAs that
    may sign for us.

    There are none of these when nobody need sign: ``wanted`` is given, the CA over our certificate
    is still believed, and none beside it signs.
    """
    from keyferry_core import anchors, est_codec

    answer = await exchange.ask("GET", "cacerts")
    found = est_codec.parse_certs(answer.body)
    answer.body = b""  # some 4 KB while a CA rolls over; the answer itself may stay for a while
    own = b"" if store.identity is None else store.identity[4]
    roots, issuers = anchors.accept(crypto, exchange.roots, found, clock.now(), own)
    group = anchors.group(found)
    if wanted or len(roots) + len(issuers) > 2:
        event("authorities", roots=len(roots), issuers=len(issuers))
    signers = [issuer.raw for issuer in issuers]
    kept = files.root(config), group, [root.raw for root in roots], signers
    signing = [signer for signer in signers if anchors.statement(signer, group) == wanted]
    if wanted and own in signers and signing in ([], [own]):
        return kept, []
    return kept, issuers


def take(
    config: "files.Config",
    store: "Store",
    crypto: "Crypto",
    event: "Callable[..., None]",
    private: bytes,
    public: bytes,
    found: list[bytes],
    issuers: list,
    held: bytes = b"",
) -> None:
    """Put the certificate for our key into the store, if it is in ``found`` and holds.

    ``issuers``: the CAs that may have signed it. ``held``: as for the store. AuthenticationError,
    DecodeError, StoreError.
    """
    leaf, issuer = _check(crypto, config, public, found, issuers, clock.now())
    chain = _chain(config, store, crypto, private, public)
    store.set_identity(config.name, config.realm, private, leaf.raw, issuer.raw, held, chain)
    serial = leaf.serial.to_bytes(20, "big").lstrip(b"\x00").hex()
    event("enrolled", name=config.name, serial=serial, not_after=leaf.not_after)


def _chain(
    config: "files.Config", store: "Store", crypto: "Crypto", private: bytes, public: bytes
) -> bytes:
    """How ``public`` came to be our key, for peers that pin keys: the last key that a link stood on
    signs for it."""
    stored = store.identity
    if stored is None or stored[:2] != (config.name, config.realm):
        return b""
    if stored[2] == private:
        return store.chain
    from keyferry_core import pinned

    signer, certificate, chain = store.proved
    key = x509.parse(certificate).public_key
    return pinned.succeed(crypto, signer, key, config.realm, config.name, public, chain)


def _check(
    crypto: "Crypto",
    config: "files.Config",
    public: bytes,
    found: list[bytes],
    issuers: list,
    now: int,
) -> tuple:
    """The certificate for our key and its issuer. AuthenticationError, DecodeError."""
    for encoded in found:
        leaf = x509.parse(encoded)
        if not equal(leaf.public_key, public):
            continue
        if x509.check_device(leaf, config.realm, now) != config.name:
            raise AuthenticationError("the certificate is for another name")
        for issuer in issuers:
            if issuer.subject == leaf.issuer:
                x509.verify(crypto, leaf, issuer)
                return leaf, issuer
        raise AuthenticationError("the certificate is from another CA")
    raise AuthenticationError("no certificate for our key came back")


class _Exchange:
    """Requests and answers on one connection to the EST server, opened again if it closes it."""

    def __init__(
        self,
        config: "files.Config",
        store: "Store",
        certificate: bytes | None,
        private: bytes | None,
        opener: "Callable[..., Awaitable] | None",
        tls: "SSLContext | None" = None,
    ) -> None:
        self._config = config
        # What may stand over the server, and over the CAs that it names.
        _, self.roots, _ = store.held(files.root(config))
        self._reader = self._writer = None
        self._credential = (certificate, private)
        self._opener = opener or self._open_tls
        self._tls = tls

    async def _open_tls(self) -> tuple:
        config = self._config
        link = config.network
        if link is None:
            if CPYTHON:
                from keyferry_agent import link_cpython as link
            else:
                from keyferry_agent import link
        if self._tls is None:
            self._tls = link.context(self.roots, *self._credential)
        stream = await link.open_link(config.host, config.est_port, config.realm, self._tls)
        return stream, stream

    async def ask(
        self, method: str, operation: str, body: bytes = b"", authorization: str = ""
    ) -> "est_codec.ResponseReader":
        """The answer 200. EnrolmentRefused or EnrolmentLater for others; OSError…"""
        from keyferry_core import est_codec

        data = est_codec.request(
            method,
            _PATH + operation,
            self._config.realm + ":" + str(self._config.est_port),
            body,
            est_codec.PKCS10 if body else "",
            authorization,
            "application/pkcs7-mime",
        )
        response = await asyncio.wait_for(self._exchange(data), ANSWER_TIMEOUT)
        if not response.reusable:
            await self.close()
        if response.status == 200:
            return response
        raise _refusal(response)

    async def _exchange(self, data: bytes) -> "est_codec.ResponseReader":
        from keyferry_core import est_codec

        if self._writer is None:
            self._reader, self._writer = await self._opener()
        self._writer.write(data)
        await self._writer.drain()
        response = est_codec.ResponseReader(_BODY)
        while not response.done:
            data = await self._reader.read(_READ)
            if data:
                response.feed(data)
            else:
                response.eof()
        return response

    async def close(self) -> None:
        """Close the connection if there is one. Never raises."""
        writer = self._writer
        self._reader = self._writer = None
        if writer is not None:
            try:
                writer.close()
                await asyncio.wait_for(writer.wait_closed(), 2)
            except Exception:
                pass  # it is gone already, which is what was wanted


def _refusal(response: "est_codec.ResponseReader") -> RemoteError:
    """What an answer other than 200 means. Keyferry's managers say "NAME: sentence"."""
    status = response.status
    text = "".join([chr(byte) for byte in response.body[:200] if 0x20 <= byte < 0x7F])
    name = text.split(":")[0]
    try:
        code_of(name)
    except KeyError:
        name = _NAMES.get(status, "internal")
    detail = "EST: HTTP " + str(status) + ": " + text
    if status in _LATER or status >= 500:
        after = response.headers.get("retry-after", "")
        # it may also be a date (RFC 9110, section 10.2.3): then our own schedule has to do
        seconds = int(after) if after.isdigit() and len(after) < 6 else 0
        return EnrolmentLater(name, detail, seconds)
    return EnrolmentRefused(name, detail)
