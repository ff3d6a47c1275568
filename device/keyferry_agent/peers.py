"""Which peers a device believes besides what its CA says: ``"trust"`` in ``config.json``.

Only loaded where that is not "ca"; the agent forgets this module after use.
"""

from keyferry_agent.config import Config, ConfigError, read_file
from keyferry_core import p256
from keyferry_core._compat import sha256
from keyferry_core.errors import RemoteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from keyferry_core.suite import Crypto


def judge(config: Config, crypto: "Crypto", event: "Callable[..., None]", own_key: bytes) -> "Any":
    """The ``judge`` of ``Trust``. ConfigError.

    ``own_key``, 65 bytes: what an owner signs for, and peers pin; the event says its name, to be
    compared with what they see.
    """
    if config.trust == "pinned":
        from keyferry_agent.pins import Pins
        from keyferry_core.pinned import Pinned

        pins = Pins(config.folder).of(config.realm)
        if pins is None:  # every peer is refused, until unpin()
            event("pins-lost", error="storage-failed", detail="pins.0 and pins.1 are damaged")
        made: Any = Pinned(crypto, config.realm, pins, config.max_pins)
    else:
        from keyferry_core.owner import Owner

        made = Owner(crypto, config.realm, _owner(config))
    event("peer-trust", mode=config.trust, own_key=sha256(own_key)[:8].hex())
    return made


def _owner(config: Config) -> bytes:
    data = read_file(config.folder + "owner.pub", 256)
    if not data:
        raise ConfigError("owner.pub: missing; without it no peer can be trusted")
    try:
        return p256.check_public(data)
    except RemoteError:
        raise ConfigError("owner.pub: expected a public key of 65 bytes, P-256") from None
