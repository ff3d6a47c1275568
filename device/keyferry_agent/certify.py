"""Renewal of the certificate in use, over the link that stands or by EST between two links.

Over the link it needs no second TLS connection and ends no link that is not to be replaced. What
comes back is believed on the same grounds as EST's answer. The agent forgets this module after use.
"""

from keyferry_agent import config as files
from keyferry_agent.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from tls import SSLContext

    from keyferry_core.suite import Crypto


async def certify(
    folder: str,
    crypto: "Crypto",
    event: "Callable[..., None]",
    new_key: bool,
    ask: "Callable[[dict, int], Awaitable[dict]]",
) -> None:
    """Put a new certificate into the keystore. ``ask(message, kind)`` asks the manager and returns
    its answer of type ``kind``. KeyferryError; until it returns the old identity stays."""
    from keyferry_agent import clock, enrol
    from keyferry_core import anchors, csr
    from keyferry_core import signalling as s

    config = files.load(folder)
    store = Store(folder)
    private, public = enrol.renewal_key(store, crypto, event, new_key)
    event("enrol-start", host=config.host, by="link")
    request = csr.certificate_request(crypto, private, public, config.name, config.realm)
    event("certificate-request", bytes=len(request))
    answer = await ask({s.TYPE: s.CERTIFY, s.REQUEST: request}, s.CERTIFIED)
    _, roots, _ = store.held(files.root(config))
    _, issuers = anchors.accept(crypto, roots, [answer[s.ISSUER]], clock.now())
    found = [answer[s.CREDENTIAL]]
    enrol.take(config, store, crypto, event, private, public, found, issuers)


async def reenroll(
    folder: str,
    crypto: "Crypto",
    event: "Callable[..., None]",
    new_key: bool,
    tls: "SSLContext | None",
    enrolment: "Any" = None,
    wanted: bytes = b"",
    network: "Any" = None,
) -> None:
    """The same by EST; ``tls`` has the present certificate. With ``wanted``, what the manager wants
    to be stated in ANCHORS, that is done if need be only. KeyferryError."""
    if enrolment is None:
        from keyferry_agent import enrol as enrolment
    config = files.load(folder)
    config.network = network
    more = (None, wanted) if wanted else ()
    await enrolment.simplereenroll(config, Store(folder), crypto, event, new_key, tls, *more)
