"""Whole runs of EDHOC, each side's calls timed apart, and the same with multiplications counted."""

import parties
from counting import Counter
from stopwatch import Stopwatch

from keyferry_core import signalling as s
from keyferry_core.edhoc.credentials import by_kid, ccs
from keyferry_core.edhoc.initiator import Initiator as BareInitiator
from keyferry_core.edhoc.responder import Responder as BareResponder
from keyferry_core.session import Initiator, Responder

# Runs that one answer sums up, enough for a clock that counts milliseconds.
RUNS = 5
# Steps of a run, each between the arrival of something and the answer to it.
STEPS = (
    ("initiator", "start to message_1"),
    ("responder", "message_1 to message_2"),
    ("initiator", "message_2 to message_3"),
    ("responder", "message_3 to session"),
)


class Counting:
    """In place of a stopwatch: how many multiplications of each kind a call makes."""

    def __init__(self, counter):
        self._counter = counter
        self.spent = {}

    def time(self, what, call, *arguments):
        self._counter.take()
        result = call(*arguments)
        self.spent[what] = self._counter.take()
        return result


class Sessions:
    """Runs between two devices as the agent makes them: signalling, certificates, binding."""

    def __init__(self, crypto, identities):
        self._crypto = crypto
        self._identities = identities
        self._now = identities["now"]
        self._a = parties.Device(crypto, identities, "panel-1")
        self._b = parties.Device(crypto, identities, "pump-7")
        self._trusts = self._new_trusts()
        for trust, peer in ((self._trusts[0], self._b), (self._trusts[1], self._a)):
            trust.credential(peer.certificate, None, self._now)
            trust.credential(peer.certificate, peer.endorsed, self._now)

    def _new_trusts(self):
        return [parties.trust(self._crypto, self._identities) for _ in range(2)]

    def run(self, watch, profile, cached, ahead):
        """One run. ``cached``: the peer's certificate is known; ``ahead``: ephemerals are made."""
        trust_a, trust_b = self._trusts if cached else self._new_trusts()
        ephemeral_a = self._crypto.generate() if ahead else None
        ephemeral_b = self._crypto.generate() if ahead else None
        a, b = self._a, self._b

        def begin():
            made = Initiator(a.identity, trust_a, self._crypto, b.name, profile, ephemeral_a)
            return made, made.connect()

        def answer(message):
            made = Responder(b.identity, trust_b, self._crypto, ephemeral_b)
            return made, made.on_connect(message)

        initiator, connect = watch.time(STEPS[0], begin)
        self._deliver(connect, a, profile)
        responder, accept = watch.time(STEPS[1], answer, connect)
        self._deliver(accept, b, profile)
        session_a = watch.time(STEPS[2], initiator.on_accept, accept, self._now)
        first = session_a.confirm()
        session_b = watch.time(STEPS[3], responder.on_message, first, self._now)
        _same(session_a.fingerprint, session_b.fingerprint)

    @staticmethod
    def _deliver(message, sender, profile):
        message[s.CREDENTIAL] = sender.certificate
        if profile == s.PROFILE_RPK:
            message[s.PUBLIC_KEY] = sender.endorsed


class Bare:
    """Runs of EDHOC alone with method 3 and suite 2, what lakers speaks too."""

    def __init__(self, crypto):
        self._crypto = crypto
        self._a = self._party(b"\x2b", "panel-1")
        self._b = self._party(b"\x32", "pump-7")

    def _party(self, kid, subject):
        private, public = self._crypto.generate()
        return private, by_kid(ccs(subject, kid, public), kid, public)

    def run(self, watch, _cached, ahead):
        ephemeral_a = self._crypto.generate() if ahead else None
        ephemeral_b = self._crypto.generate() if ahead else None
        (private_a, own_a), (private_b, own_b) = self._a, self._b

        def begin():
            made = BareInitiator(
                self._crypto, own_a, private_a, 3, (2,), b"\x05", ephemeral=ephemeral_a
            )
            return made, made.message_1()

        def answer(message_1):
            made = BareResponder(self._crypto, own_b, private_b, (3,), (2,), ephemeral=ephemeral_b)
            made.read_message_1(message_1)
            return made, made.message_2(b"\x07")

        def go_on(message_2):
            initiator.read_message_2(message_2)
            initiator.verify_message_2(own_b)
            return initiator.message_3()

        def finish(message_3):
            responder.read_message_3(message_3)
            responder.verify_message_3(own_a)

        initiator, message_1 = watch.time(STEPS[0], begin)
        responder, message_2 = watch.time(STEPS[1], answer, message_1)
        message_3 = watch.time(STEPS[2], go_on, message_2)
        watch.time(STEPS[3], finish, message_3)
        _same(initiator.prk_out, responder.prk_out)


def _same(ours, theirs):
    # not an assertion: those are left out of what is compiled for a device
    if ours != theirs:
        raise ValueError("the sides differ")


def _by_step(spent):
    return [spent[step] for step in STEPS]


def cases(crypto, identities):
    """``{case: a call that returns the four steps' microseconds}``, and ``count``: cases whose
    call returns how many fixed-base, variable and double-scalar multiplications each step makes.
    """
    sessions = Sessions(crypto, identities)
    bare = Bare(crypto)
    profiles = (
        ("cert suite 3", lambda *how: sessions.run(how[0], s.PROFILE_CERT, how[1], how[2])),
        ("rpk suite 3", lambda *how: sessions.run(how[0], s.PROFILE_RPK, how[1], how[2])),
        ("method 3 suite 2", bare.run),
    )
    ways = (("first", False, False), ("cached", True, False), ("ahead", True, True))
    found = {}

    def timed(run, cached, ahead):
        def once():
            watch = Stopwatch()
            for _ in range(RUNS):
                run(watch, cached, ahead)
            return [spent / RUNS for spent in _by_step(watch.spent)]

        return once

    def counted(run, cached, ahead):
        def once():
            counter = Counter()
            counter.start()
            watch = Counting(counter)
            try:
                run(watch, cached, ahead)
            finally:
                counter.stop()
            return _by_step(watch.spent)

        return once

    for profile, run in profiles:
        for way, cached, ahead in ways:
            # a bare run has no certificate to verify or to remember
            if way == "first" and run == bare.run:
                continue
            name = profile + ", " + way
            found[name] = timed(run, cached, ahead)
            found["count " + name] = counted(run, cached, ahead)
    return found
