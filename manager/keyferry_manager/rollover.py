"""Whom a step of a CA's roll-over would leave behind, by name. ``keyferry ca rollover``.

A device is ready for the new CA when it said, over its own authenticated link, that it holds the
certificates which EST's ``cacerts`` gives now; and it has left the old CA when its newest
certificate is one of the new CA's. Nothing else is believed.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cryptography import x509

from keyferry_manager.authority.chain import Chain

if TYPE_CHECKING:
    from keyferry_manager.config import Config
    from keyferry_manager.store import Store

Step = Literal["switch", "finish"]
_COMING: dict[str, tuple[Step, ...]] = {"started": ("switch", "finish"), "switched": ("finish",)}
# Devices looked at with one statement.
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Stranded:
    """A device that a step leaves behind: why, and what to do about it."""

    name: str
    why: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a step would do to the devices that have a certificate."""

    step: Step
    devices: int
    ready: int
    stranded: tuple[Stranded, ...]


async def rehearse(config: "Config", store: "Store", chain: Chain, now: float) -> list[Rehearsal]:
    """The steps that are still to come, as they would go now. Nothing is changed."""
    phase = chain.state.phase
    steps = _COMING.get(phase or "", ())
    if not steps:
        return []
    holding = await store.presences.anchors()
    wanted = chain.cacerts_digest().hex()
    names = [device.name for device in await store.devices()]
    found: dict[Step, list[Stranded]] = {step: [] for step in steps}
    counted = 0
    for begin in range(0, len(names), _AT_ONCE):
        some = names[begin : begin + _AT_ONCE]
        newest = await store.pages.latest_certificates(some)
        revoked = await store.pages.revoked([item.serial for item in newest.values()])
        for name in some:
            certificate = newest.get(name)
            if certificate is None or certificate.serial in revoked:
                continue  # it has nothing that could be lost
            end = certificate.not_after + config.grace_days * 86400
            if end <= now:
                continue  # it must be enrolled anew whatever happens
            counted += 1
            if "switch" in found and holding.get(name) != wanted:
                found["switch"].append(_unprepared(name, chain))
            issuer = x509.load_der_x509_certificate(certificate.der).issuer
            if issuer == chain.current.issuing.subject and phase == "switched":
                continue
            found["finish"].append(_under_the_old(name, phase == "switched"))
    return [
        Rehearsal(step, counted, counted - len(found[step]), tuple(found[step])) for step in steps
    ]


def _unprepared(name: str, chain: Chain) -> Stranded:
    why = "has not said that it holds the new CA's certificates"
    if chain.carries_over():
        why += ": it still believes the server, but no peer that has renewed"
    else:
        why += ": it would believe the server no more"
    return Stranded(name, why, "let it connect: it fetches them by itself")


def _under_the_old(name: str, switched: bool) -> Stranded:
    why = "has a certificate of the old CA only"
    if not switched:
        return Stranded(name, why, "after 'switch' it renews by itself when it is connected")
    return Stranded(name, why, f"let it connect, or: keyferry device add {name} --again --token")
