"""From a folder on flash to an identity that holds: configuration, keystore, enrolment, TLS.

The agent forgets this module and what it imports after use; on a board that gives memory back to
the key exchange.
"""

import asyncio

from keyferry_agent import clock
from keyferry_agent import config as files
from keyferry_agent.errors import EnrolmentLater, EnrolmentRefused, jitter
from keyferry_agent.store import Store
from keyferry_core import x509
from keyferry_core.errors import KeyferryError, LocalError
from keyferry_core.trust import Trust

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from keyferry_core.suite import Crypto

# Seconds between two attempts to enrol: doubled from the first to the last, with jitter.
BACKOFF = (1, 300)
# A certificate is renewed, with a new key, when less than this part of its life is left (1/3); up
# to a JITTER_PART of its life later, so that devices of one day do not come back as one.
RENEW_PART = 3
JITTER_PART = 24


class Ready:
    """What the agent needs: ``config``, the fields of the identity, ``renew_at`` (Unix seconds),
    and for TLS ``roots`` and ``key``, all DER. ``issuers``: the CA over the certificate, and
    others whose devices are believed. ``anchors``: for each of them, what states to the manager
    that it is the one that signs. ``agreement``: the (private, public) pair for the
    profile rpk, or None, and ``endorsed``, its public key as the manager takes it, or b"".
    ``unproved``: the key before this one is still on flash. ``chain``: of the store. ``judge``: for
    Trust.
    No methods: see config.Config.
    """

    config: files.Config
    private: bytes
    public: bytes
    certificate: bytes
    issuer: bytes
    agreement: tuple | None
    endorsed: bytes
    unproved: bool
    chain: bytes
    renew_at: int
    roots: list
    issuers: list
    anchors: list
    key: bytes
    judge: "Any"


async def obtain(
    folder: str,
    crypto: "Crypto",
    event: "Callable[..., None]",
    enrolment: "Any" = None,
    secure: bool = True,
    renew_due: bool = True,
    network: "Any" = None,
) -> Ready:
    """The identity in ``folder``; enrols until there is one, and renews it if that is due.

    EnrolmentRefused when the manager does not want the device, LocalError when its configuration
    or its clock is wrong. ``secure``: with what TLS needs. ``network``: as Config has it.
    """
    from keyferry_agent import timekeeper

    config = files.load(folder)
    config.network = network
    await timekeeper.ensure(config, crypto, event)
    store = Store(folder)
    if files.wants_reset(config):
        try:
            store.erase()
        except KeyferryError as error:  # what is to be forgotten must not be used either
            event("store-failed", error=error.name, detail=error.detail)
            raise
        files.reset_done(config)
        event("factory-reset")
    if store.damaged > 1:
        event("store-damaged", files=store.damaged)
    delay = BACKOFF[0]
    while True:
        ready = _usable(config, store, crypto, event)
        if ready is not None:
            if not renew_due or clock.now() < ready.renew_at:
                break
            renew_due = False  # once: if it does not work, the certificate still holds
        if enrolment is None:
            from keyferry_agent import enrol as enrolment
        if ready is not None:
            # It is due, and there is more memory for it now than there will be later.
            try:
                # where the owner signed for a key, and is not at hand to sign again, it stays
                new_key = config.trust != "owner"
                await enrolment.simplereenroll(config, store, crypto, event, new_key)
            except KeyferryError as error:
                event("renewal-failed", error=error.name, detail=error.detail)
            continue
        try:
            if not await _renewed_late(config, store, crypto, event, enrolment):
                await enrolment.simpleenroll(config, store, crypto, event)
        except (EnrolmentRefused, LocalError) as error:
            event("enrol-refused", error=error.name, detail=error.detail)
            raise
        except KeyferryError as error:
            wait = jitter(delay, crypto.random)
            if isinstance(error, EnrolmentLater):
                wait = max(wait, error.seconds * 1000)
            event("enrol-failed", error=error.name, detail=error.detail, retry_ms=wait)
            await asyncio.sleep(wait / 1000)
            if error.name == "clock-wrong":
                await timekeeper.ensure(config, crypto, event, True)
            delay = min(2 * delay, BACKOFF[1])
    ready.unproved = store.unproved
    ready.chain = store.chain
    ready.agreement = None
    ready.endorsed = b""
    if config.profile != "cert-only":
        ready.agreement, ready.endorsed = _agreement(store, crypto, event, ready)
    _held(ready, store, secure)
    ready.judge = None
    if config.trust != "ca":
        from keyferry_agent import peers

        ready.judge = peers.judge(config, crypto, event, ready.public)
    if secure:
        ready.key = crypto.tls_key(ready.private, ready.public)
    return ready


def _held(ready: Ready, store: Store, secure: bool) -> None:
    """Which CAs are trusted beside the one over our certificate, and how they are stated."""
    from keyferry_core import anchors, signalling

    config = ready.config
    root = files.root(config) if secure else files.read_file(config.folder + "root.der", 2048)
    group, ready.roots, issuers = store.held(root or b"")
    ready.issuers = [ready.issuer] + [other for other in issuers if other != ready.issuer]
    ready.anchors = [bytes(signalling.ANCHORS_LENGTH)]
    if group:
        ready.anchors = [anchors.statement(issuer, group) for issuer in ready.issuers]


async def _renewed_late(
    config: files.Config,
    store: Store,
    crypto: "Crypto",
    event: "Callable[..., None]",
    enrolment: "Any",
) -> bool:
    """Renew a certificate of ours that has run out, if there is one and the manager lets us."""
    stored = store.identity
    if stored is None or stored[:2] != (config.name, config.realm):
        return False
    try:
        await enrolment.simplereenroll(config, store, crypto, event)
    except EnrolmentRefused as error:
        event("renewal-refused", error=error.name, detail=error.detail)
        return False
    return True


def _agreement(
    store: Store, crypto: "Crypto", event: "Callable[..., None]", ready: Ready
) -> tuple[tuple, bytes]:
    """The key pair for the profile rpk, and the public key endorsed by the certificate's key.

    It is made here when there is none: after enrolment, with a new certificate key, and on the
    first start after an update from a version that had no such key.
    """
    from keyferry_core import rpk

    kept = store.agreement
    if kept is None:
        private, public = crypto.generate()
        kept = private, rpk.endorse(crypto, ready.private, ready.config.name, public)
        try:
            store.set_agreement(*kept)
        except KeyferryError as error:  # it serves until the next start, which makes another one
            event("store-failed", error=error.name, detail=error.detail)
        event("agreement-key-made", curve="P-256", key_id=rpk.key_id(public).hex())
    private, endorsed = kept
    _, credential, _, _ = rpk.parse_endorsed(endorsed)
    return (private, credential.public), endorsed


def _usable(
    config: files.Config, store: Store, crypto: "Crypto", event: "Callable[..., None]"
) -> Ready | None:
    """The stored identity, if it is the configured one and its certificate holds."""
    stored = store.identity
    if stored is None:
        return None
    name, realm, private, certificate, issuer = stored
    if name != config.name or realm != config.realm:
        event("identity-unusable", error="name-not-allowed", detail="of " + name + "@" + realm)
        return None
    try:
        certified, public = Trust(crypto, realm, issuer).check(certificate, clock.now())
        parsed = x509.parse(certificate)
    except KeyferryError as error:
        event("identity-unusable", error=error.name, detail=error.detail)
        return None
    if certified != name:
        event("identity-unusable", error="name-not-allowed", detail="certified " + certified)
        return None
    ready = Ready()
    ready.config = config
    ready.private = private
    ready.public = public
    ready.certificate = certificate
    ready.issuer = issuer
    life = parsed.not_after - parsed.not_before
    late = life * crypto.random(1)[0] // (256 * JITTER_PART)
    ready.renew_at = parsed.not_after - life // RENEW_PART + late
    return ready
