"""The agent: one identity, one link to the manager, and the sessions above it."""

import asyncio
import gc
import os

from keyferry_agent import clock
from keyferry_agent.errors import LinkError, explain, jitter
from keyferry_agent.memory import forget
from keyferry_core import signalling as s
from keyferry_core._compat import CPYTHON
from keyferry_core.errors import (
    DecodeError,
    KeyferryError,
    LocalError,
    RemoteError,
    code_of,
    name_of,
)
from keyferry_core.names import check_name
from keyferry_core.suite import for_board

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from keyferry_agent.board import Board
    from keyferry_agent.config import Config
    from keyferry_agent.messages import Messages
    from keyferry_agent.sessions import PeerSession, Sessions
    from keyferry_agent.wifi import Wifi
    from keyferry_core.suite import Crypto

# Seconds to wait for the manager's answer to a request, and for a peer's to connect().
ANSWER_TIMEOUT = 15
CONNECT_TIMEOUT = 30
# Seconds between two links: doubled from the first to the last, with jitter.
BACKOFF = (1, 60)
# Seconds between two looks at what is due.
TICK = 10
# Seconds after a failed renewal until the next.
RENEW_AGAIN = 3600
# Links refused in a row after which a renewed key is given up for the one before it.
GIVE_UP = 3
# Seconds by which the board's clock may differ from the time that is trusted.
CLOCK_SLACK = 60
# Seconds within which a device asks for the CA certificates that the manager speaks of, and after
# which it tries again when that failed.
FOLLOW_WITHIN = 20
FOLLOW_AGAIN = 600
# Bytes allocated between two collections. Without it what lives long ends up all over the heap,
# and large records find no room in one piece.
COLLECT_EVERY = 8192

# What an answer must have to be of use.
_NEEDED = {
    s.REGISTERED: (s.EXPIRES, s.SEEN),
    s.RESOLVED: (s.NAME, s.ONLINE, s.ADDRESSES),
    s.DELIVERED: (),
    s.CERTIFIED: (s.CREDENTIAL, s.ISSUER),
}

# Modules needed only until there is an identity.
_PASSING = (
    "keyferry_agent.identity",
    "keyferry_agent.certify",
    "keyferry_agent.timekeeper",
    "keyferry_agent.ntp",
    "keyferry_agent.peers",
    "keyferry_agent.pins",
    "keyferry_agent.enrol",
    "keyferry_agent.config",
    "keyferry_agent.store",
    "keyferry_agent.slots",
    "keyferry_core.anchors",
    "keyferry_core.est_codec",
    "keyferry_core.signed_time",
    "keyferry_core.pinned",
    "keyferry_core.csr",
    "keyferry_core.rpk",
    "keyferry_core.cose_message",
)
# And those that are needed only while keys are exchanged.
_HANDSHAKE = (
    "keyferry_core.edhoc.initiator",
    "keyferry_core.edhoc.responder",
    "keyferry_core.rpk",
    "keyferry_core.cose_message",
)


class Agent:
    """The device whose configuration, credential and keys are in ``folder``.

    ``events(event, **fields)`` is told what happens; no field is ever a secret. Each call has
    ``ms``, milliseconds since the agent was made. ``crypto`` is a backend with the methods of
    ``suite.Crypto``, by default the board's or that one (``suite.for_board``). ``carrier`` and
    ``enrolment`` take the place of MQTT and EST, in tests and for other links; ``network`` that of
    the module ``link`` (on CPython ``link_cpython``): see ``uart``. ``watchdog`` is called twice a
    second from ``start`` to ``stop``: ``machine.WDT(timeout=8000).feed``. ``board``: the agent
    keeps its radio joined to the network of ``wifi.json``; see ``board``. ``config`` is there after
    ``start``.
    """

    def __init__(
        self,
        folder: str = "/",
        events: "Callable[..., None] | None" = None,
        crypto: "Crypto | None" = None,
        carrier: "Any" = None,
        enrolment: "Any" = None,
        watchdog: "Callable[[], object] | None" = None,
        network: "Any" = None,
        board: "Board | None" = None,
    ) -> None:
        self.config: Config | None = None
        self.sessions: Sessions | None = None
        self.crypto = crypto or (for_board if board is None else board.crypto)(os.urandom)
        self._folder = folder
        self._events = events
        self._ms = clock.stopwatch()
        self._carrier: Any = carrier
        self._enrolment = enrolment
        self._network: Any = network
        self._secure = carrier is None
        self._tls = None
        self._endorsed = b""  # our key for the profile rpk, to be registered
        self._chain = b""  # and how our certificate's key came about: identity.Ready.chain
        self._requests: dict[int, list] = {}  # id: [Event, answer or error, who may answer]
        self._request_id = 0
        self._messages: Messages | None = None
        self._manager: bytes | None = None  # which run of the manager we registered with
        self._instance = self.crypto.random(s.INSTANCE_LENGTH)
        self._task = None
        self._up = asyncio.Event()
        self._lost: int | None = None  # uptime: the last registered link ended
        self._refresh_at = 0  # uptime: register again
        self._renew_at = 0  # Unix seconds: renew the certificate
        self._anchors: list[bytes] = []  # identity.Ready.anchors
        self._wanted = b""  # which of them the manager wants: there are other CAs
        self._follow_at = 0  # uptime: do what it wants
        self._relink = asyncio.Event()  # end the link, or the wait for the next one
        # [Event, error or None, new key?, done over the link?, what ANCHORS are wanted]
        self._renewal: list | None = None
        self._replaced = False
        self._doubt = False  # a certificate's dates and our clock do not go together
        self._unproved = False  # no link stood on the identity's key yet; the one before it is kept
        self._refused = 0  # links in a row
        self._stopping = False
        self._direct = None  # direct.Listener
        self._watchdog = watchdog
        self._feeder: asyncio.Task | None = None
        self._board = board
        self._wifi: Wifi | None = None

    # -- for the application --

    async def start(self) -> None:
        """Enrol if need be, connect and register; returns when that is done.

        Waits as long as it takes. EnrolmentRefused when the manager does not want the device,
        LocalError when its configuration or clock is wrong.
        """
        if self._task is not None:
            raise LocalError("wrong-state", "the agent runs")
        if not CPYTHON:
            gc.threshold(COLLECT_EVERY)
        if self._watchdog is not None and self._feeder is None:
            from keyferry_agent.watchdog import keep_feeding

            self._feeder = asyncio.create_task(keep_feeding(self._watchdog))
        try:
            if self._board is not None:
                from keyferry_agent.wifi import Wifi

                self._wifi = Wifi(
                    *(self._board, self._folder, self._event, self.crypto.random, self._relink.set)
                )
                await self._wifi.start()
            await self._take_identity()
        except BaseException as error:
            self._starve()
            if isinstance(error, KeyferryError):
                self._event("start-failed", error=error.name, detail=error.detail)
            raise
        if self.config.direct_port:
            from keyferry_agent.direct import Listener

            assert self.sessions is not None
            self._direct = Listener(self.sessions)
            await self._direct.start(self.config.direct_port)
        self._task = asyncio.create_task(self._run())
        await self._up.wait()

    async def stop(self) -> None:
        """Close all sessions and the link. The agent cannot be started again."""
        if self._task is None or self._stopping:
            self._starve()
            return
        self._stopping = True
        self.sessions.stop()
        if self._messages is not None:
            self._messages.stop()
        if self._up.is_set():
            for session in self.sessions.standing():
                await session.close()
            await self._carrier.flush(2)
        self.sessions.end_all("session-closed")
        if self._direct is not None:
            self._direct.stop()
        self._starve()
        self._task.cancel()
        try:
            await self._task
        except asyncio.CancelledError:
            pass
        self._up.clear()
        self._event("stopped")

    def _starve(self) -> None:
        """Leave the watchdog, and the radio as it is, to whoever goes on."""
        if self._wifi is not None:
            self._wifi.stop()
            self._wifi = None
        if self._feeder is not None:
            self._feeder.cancel()
            self._feeder = None

    async def factory_reset(self) -> None:
        """Stop, and erase every key that this device made and every certificate for them.

        What it was provisioned with stays, so the next start enrols anew: with its factory
        identity, or with a token that is put there first. StoreError when the flash does not do it.
        """
        await self.stop()
        from keyferry_agent.store import Store

        Store(self._folder).erase()
        self._event("factory-reset")

    def unpin(self, name: str = "") -> None:
        """With ``"trust": "pinned"``, forget the key of the peer ``name``, or of all: the next one
        that it comes with is believed as the first was. StoreError when the flash does not do it.
        """
        if self.config is None or self.sessions is None or self.config.trust != "pinned":
            raise LocalError("wrong-state", "no keys are pinned here")
        from keyferry_agent import pins

        pins.unpin(self.config, self.sessions.trust.judge, self._event, name)
        del pins
        forget(_PASSING)

    async def connect(
        self,
        name: str,
        timeout: int = CONNECT_TIMEOUT,
        profile: str = "",
        on_behalf_of: str = "",
        via: str = "relay",
    ) -> "PeerSession":
        """A session with the device ``name``, which holds the same keys when this returns.

        ``profile``: "cert" or "rpk", by default the configured one; docs/keys.md says what they
        are. ``on_behalf_of``: the third party that a gateway asks for; manager and peer must both
        let it (docs/policy.md). ``via``: "relay"; "auto", which goes straight to the peer where one
        of its registered addresses answers, and else, or later, by the relay; or "direct", which
        ends where there is no direct path (docs/keys.md).

        RemoteError with the reason ("access-denied", "unknown-name", "peer-offline", "declined",
        "unsupported", "timeout"…), LocalError("too-many").
        """
        check_name(name)
        if on_behalf_of:
            check_name(on_behalf_of)
        if via not in ("relay", "auto", "direct"):
            raise LocalError("bad-argument", "via: relay, auto or direct")
        if profile not in ("", "cert", "rpk"):
            raise LocalError("bad-argument", "no such profile")
        await self._wait_up(timeout)
        if name == self.config.name:
            raise LocalError("bad-argument", "a session with ourselves")
        number = s.PROFILE_RPK if (profile or self.config.profile) == "rpk" else s.PROFILE_CERT
        session = await self.sessions.connect(name, timeout, number, on_behalf_of)
        if via != "relay":
            from keyferry_agent import direct

            assert self.sessions is not None
            await direct.go(session, self.sessions, self.resolve, via == "direct")
        return session

    def incoming(self) -> "Sessions":
        """``async for session in agent.incoming()``: sessions that peers begin, until ``stop``."""
        if self.sessions is None:
            raise LocalError("wrong-state", "start the agent first")
        return self.sessions

    async def message(self, name: str, data: bytes) -> None:
        """Bring up to 2048 bytes to the device ``name`` without a session; the manager can read
        them. Returns when the other agent has them.

        RemoteError says why not: "access-denied", "unknown-name", "device-gone", "peer-offline",
        "too-many" (the application there does not read), "declined" (it takes none), "peer-gone"
        (its link ended before it answered), "timeout". After the last two, and when our own link
        ends, it may have them all the same.
        """
        if not isinstance(data, bytes) or len(data) > s.MAX_PLAIN:
            raise LocalError("bad-argument", "data: at most 2048 bytes")
        message = {s.TYPE: s.SEND, s.TO: check_name(name), s.DATA: data}
        await self._wait_up(ANSWER_TIMEOUT)
        if self.sessions.leg is not None:
            message[s.ROUTE] = [self.sessions.leg]
        answer = await self._ask(message, s.DELIVERED)
        if s.ERROR_CODE in answer:
            raise RemoteError(name_of(answer[s.ERROR_CODE]), "said " + name)

    def messages(self) -> "Messages":
        """``async for message in agent.messages()``: what others send with ``message``, until
        ``stop``. Before the first call of this, messages are declined."""
        if self.sessions is None:
            raise LocalError("wrong-state", "start the agent first")
        if self._messages is None:
            from keyferry_agent.messages import Messages

            self._messages = Messages()
        return self._messages

    async def resolve(self, name: str) -> dict:
        """What the manager knows of ``name``: {"name", "online", "addresses", "expires",
        "certificate", "public_key"}.

        ``expires``: seconds for which the addresses hold, or None; ``certificate``: DER or None;
        ``public_key``: its endorsed key for the profile rpk, or None. RemoteError
        "access-denied", "unknown-name", "device-gone" (it was removed), "timeout".
        """
        await self._wait_up(ANSWER_TIMEOUT)
        answer = await self._ask({s.TYPE: s.RESOLVE, s.NAME: check_name(name)}, s.RESOLVED)
        return {
            "name": answer[s.NAME],
            "online": answer[s.ONLINE],
            "addresses": answer[s.ADDRESSES],
            "expires": answer.get(s.EXPIRES),
            "certificate": answer.get(s.CREDENTIAL),
            "public_key": answer.get(s.PUBLIC_KEY),
        }

    async def renew(self, new_key: bool = False) -> None:
        """A new certificate, with a new key if wanted. KeyferryError.

        It is asked for over the link if there is one. Where that does not do, it is EST's
        simplereenroll: the link is closed meanwhile, since a small board has no memory for two
        TLS connections. The link is made anew with the new certificate; sessions that stand go on.
        """
        if self._task is None or self._stopping:
            raise LocalError("wrong-state", "the agent does not run")
        request = self._ask_renewal(new_key)
        await request[0].wait()
        if request[1] is not None:
            raise request[1]

    # -- identity --

    async def _take_identity(self, renew_due: bool = True) -> None:
        """Use the identity on flash, after enrolment or renewal if need be."""
        from keyferry_agent import identity

        try:
            ready = await identity.obtain(
                self._folder,
                self.crypto,
                self._event,
                self._enrolment,
                self._secure,
                renew_due,
                self._network,
            )
        finally:
            del identity
            forget(_PASSING)
        self.config = config = ready.config
        self._unproved = ready.unproved
        self._refused = 0
        if self._secure:
            if self._network is None:
                if CPYTHON:
                    from keyferry_agent import link_cpython as link
                else:
                    from keyferry_agent import link
                self._network = link
            self._tls = None  # the new context fits where the old one was
            self._tls = self._network.context(ready.roots, ready.certificate, ready.key)
        self._renew_at = max(ready.renew_at, clock.now() + RENEW_AGAIN)
        # Only now: enrolment and key exchange need not fit into memory together.
        from keyferry_agent.sessions import Sessions
        from keyferry_core.session import Identity
        from keyferry_core.trust import Trust

        self._endorsed = ready.endorsed
        self._chain = ready.chain
        own = Identity(
            config.name,
            config.realm,
            ready.private,
            ready.public,
            ready.certificate,
            ready.agreement,
            (ready.certificate, ready.issuer)[: config.send_certificates],
        )
        self._anchors = ready.anchors
        trust = Trust(self.crypto, config.realm, *ready.issuers)
        trust.judge = ready.judge
        if self.sessions is None:
            self.sessions = Sessions(config, self.crypto, own, trust, self._send, self._event)
        else:
            self.sessions.identity = own
            self.sessions.trust = trust
        if self._carrier is None:
            # only the one that is used: the other's modules would take a third of a small heap
            if config.carrier == "sip":
                from keyferry_agent.carriers.sip import SipCarrier

                client = (config.name, config.realm, self.crypto.random)
                self._carrier = SipCarrier(
                    client, config.keep_alive, self._open_link, self._skipped
                )
            else:
                from keyferry_agent.carriers.mqtt import MqttCarrier

                self._carrier = MqttCarrier(
                    config.name, config.keep_alive, self._open_link, self._skipped
                )
        gc.collect()

    def _ask_renewal(self, new_key: bool, wanted: bytes = b"") -> list:
        if self._renewal is None:
            self._renewal = [asyncio.Event(), None, new_key, False, wanted]
        self._relink.set()
        return self._renewal

    async def _certify(self, request: list) -> bool:
        """Renew over this link. False when the manager refuses; True when the link is to end: for
        the new certificate's sake, or for EST."""
        self.sessions.forget_ahead()
        forget(_HANDSHAKE)
        try:
            from keyferry_agent import certify

            try:
                await certify.certify(self._folder, self.crypto, self._event, request[2], self._ask)
            finally:
                del certify
                forget(_PASSING)
            request[3] = True
        except Exception as error:  # also a lack of memory, of which EST needs less without a link
            failure = explain(error)
            refused = type(failure) is RemoteError and failure.name != "unsupported"
            if refused or failure.name == "storage-failed":  # nor would the flash take EST's
                self._renewal = None
                self._not_renewed(request, failure)
                return False
            self._event("certify-failed", error=failure.name, detail=failure.detail)
        return True

    def _not_renewed(self, request: list, failure: KeyferryError) -> None:
        request[1] = failure
        self._renew_at = clock.now() + RENEW_AGAIN
        self._event("renewal-failed", error=failure.name, detail=failure.detail)
        request[0].set()

    async def _renew(self, request: list) -> None:
        """Renew between two links. Whether it works or not, a link can be made afterwards."""
        self.sessions.forget_ahead()
        forget(_HANDSHAKE)
        folder, crypto, event = self._folder, self.crypto, self._event
        try:
            if not request[3]:
                from keyferry_agent import certify

                try:
                    await certify.reenroll(
                        folder,
                        crypto,
                        event,
                        request[2],
                        self._tls,
                        self._enrolment,
                        request[4],
                        self._network,
                    )
                finally:
                    del certify
                    forget(_PASSING)
            await self._take_identity(False)
            request[0].set()
        except Exception as error:
            self._not_renewed(request, explain(error))

    async def _check_clock(self) -> None:
        """The clock is wrong, or moved by itself: ask for the time."""
        self.sessions.forget_ahead()
        config = self.config
        assert config is not None
        from keyferry_agent import timekeeper

        try:
            await timekeeper.ensure(config, self.crypto, self._event, True)
        finally:
            del timekeeper
            forget(_PASSING)

    def _settle(self, works: bool) -> None:
        """A link stood on the renewed key, or none does: drop the other one from the flash."""
        from keyferry_agent.store import Store

        try:
            store = Store(self._folder)
            if works:
                store.prove()
            else:
                store.fall_back()
            self._unproved = False
            self._event("key-proved" if works else "key-given-up")
        except KeyferryError as error:
            self._event("store-failed", error=error.name, detail=error.detail)
        del Store
        forget(("keyferry_agent.store", "keyferry_agent.slots"))

    async def _open_link(self) -> tuple:
        config = self.config
        assert config is not None
        assert self._tls is not None
        port = config.sip_port if config.carrier == "sip" else config.mqtt_port
        stream = await self._network.open_link(config.host, port, config.realm, self._tls)
        return stream, stream

    # -- the link --

    async def _run(self) -> None:
        """Keep a link to the manager as long as the agent lives."""
        delay = BACKOFF[0]
        while not self._stopping:
            self._replaced = False
            try:
                self._relink.clear()
                if self._renewal is not None:
                    await self._renew(self._renewal)
                    self._renewal = None
                if self._unproved and self._refused >= GIVE_UP:
                    self._refused = 0
                    self._settle(False)
                    await self._take_identity(False)
                if self._doubt:
                    self._doubt = False
                    await self._check_clock()
                reason = await self._one_link()
            except Exception as error:  # whatever it was, a device must come back by itself
                reason = explain(error)
            if self._up.is_set():
                self._up.clear()
                self._lost = clock.uptime()
                delay = BACKOFF[0]
            elif reason.name == "authentication-failed":
                self._refused += 1
            self._doubt = reason.name == "clock-wrong"
            if self._replaced:
                # Two devices with one identity must not throw each other out all the time.
                delay = BACKOFF[1]
            clock.uptime()  # it must not rest for days
            wait = 0 if self._renewal is not None else jitter(delay, self.crypto.random)
            delay = min(2 * delay, BACKOFF[1])
            self._event("link-down", error=reason.name, detail=reason.detail, retry_ms=wait)
            gc.collect()
            try:
                await asyncio.wait_for(self._relink.wait(), wait / 1000)
            except asyncio.TimeoutError:
                pass

    async def _one_link(self) -> KeyferryError:
        """From connecting until the link ends; why it did."""
        carrier = self._carrier
        tasks = []
        failed: list[KeyferryError] = []
        try:
            await carrier.open()
            self._event("link-up")
            tasks.append(asyncio.create_task(self._read(failed)))
            await self._register(True)
            if self._stopping:  # CPython's wait_for may swallow what stop() cancelled
                raise asyncio.CancelledError
            if self._unproved:
                self._settle(True)
            grace = self.config.session_grace
            if self._lost is not None and clock.uptime() - self._lost > grace:
                # The manager has told our peers already that we are gone.
                self.sessions.end_all("peer-gone")
            carrier.resume()
            self._up.set()
            self.sessions.make_ahead()
            tasks.append(asyncio.create_task(self._tick(tasks[0], failed)))
            await tasks[0]
        except asyncio.CancelledError:
            if not failed:
                raise
        finally:
            for task in tasks:
                task.cancel()
            await carrier.close(self._stopping)
        return failed[0]

    async def _read(self, failed: list) -> None:
        try:
            await self._carrier.run(self._on_payload)
        except Exception as error:
            failed.append(explain(error))
            for request in self._requests.values():
                self._answer(request, failed[0])

    async def _register(self, first: bool = False) -> None:
        message = {
            s.TYPE: s.REGISTER,
            s.INSTANCE: self._instance,
            s.ADDRESSES: self.config.addresses,
            s.ANCHORS: self._anchors[0],
        }
        if first and self._endorsed:  # the manager keeps it for as long as the link stands
            message[s.PUBLIC_KEY] = self._endorsed
        if first and self._chain:
            message[s.VOUCH] = self._chain
        if self.config.trust != "ca":
            message[s.TRUST] = s.TRUST_OWNER if self.config.trust == "owner" else s.TRUST_PINNED
        answer = await self._ask(message, s.REGISTERED)
        manager = answer.get(s.INSTANCE, b"")
        if self._manager is not None and manager != self._manager:
            # It cannot tell us of sessions that it does not know any more.
            self.sessions.end_all("manager-restarted")
        self._manager = manager
        expires = answer[s.EXPIRES]
        self._refresh_at = clock.uptime() + expires // 2
        self.sessions.leg = [answer[s.SEEN], self._carrier.transport, True]
        wanted = answer.get(s.ANCHORS, b"")
        if wanted and wanted != self._wanted:
            self._follow_at = clock.uptime() + jitter(FOLLOW_WITHIN, self.crypto.random) // 1000
        self._wanted = wanted
        self._event("registered", seen=answer[s.SEEN], expires=expires)

    async def _tick(self, reading, failed: list) -> None:
        """What is due while the link stands."""
        while True:
            try:
                await asyncio.wait_for(self._relink.wait(), TICK)
            except asyncio.TimeoutError:
                pass
            self._relink.clear()
            if self._renewal is not None:
                # CA certificates come by EST only.
                if self._renewal[4] or await self._certify(self._renewal):
                    failed.append(LinkError("the certificate is to be renewed"))
                    reading.cancel()
                    return
            try:
                await self.sessions.expire()
                self.sessions.make_ahead()
                unsure = abs(clock.rtc() - clock.now()) > CLOCK_SLACK
                if clock.uptime() >= self._refresh_at:
                    await self._register()
                    # a time that nobody signed, where somebody could have by now
                    unsure = unsure or (clock.by_ntp() and self.config.time_port > 0)
                if unsure:
                    await self._check_clock()
                if self._wanted and clock.uptime() >= self._follow_at:
                    self._follow_at = clock.uptime() + FOLLOW_AGAIN
                    # A CA that we hold signs now: renew. If not, learn first which there are.
                    known = self._wanted in self._anchors
                    self._ask_renewal(False, b"" if known else self._wanted)
                elif clock.now() >= self._renew_at:
                    # where the owner signed for a key, that key stays
                    self._ask_renewal(self.config.trust != "owner")
            except KeyferryError as error:
                self._event("upkeep-failed", error=error.name, detail=error.detail)

    async def _wait_up(self, timeout: int) -> None:
        if self._task is None:
            raise LocalError("wrong-state", "start the agent first")
        if not self._up.is_set():
            try:
                await asyncio.wait_for(self._up.wait(), timeout)
            except asyncio.TimeoutError:
                raise RemoteError("timeout", "no link to the manager") from None

    async def _ask(self, message: dict, kind: int) -> dict:
        """Send a request and wait for its answer of type ``kind``; to the manager, unless it says
        to whom. RemoteError."""
        self._request_id = number = (self._request_id + 1) & 0xFFFFFFFF
        message[s.FROM] = self.config.name
        message.setdefault(s.TO, s.MANAGER)
        message[s.ID] = number
        request = self._requests[number] = [asyncio.Event(), None, message[s.TO]]
        try:
            await self._send(message)
            await asyncio.wait_for(request[0].wait(), ANSWER_TIMEOUT)
        except asyncio.TimeoutError:
            raise LinkError("the manager does not answer", "timeout") from None
        finally:
            del self._requests[number]
        answer = request[1]
        if not isinstance(answer, dict):
            raise answer
        if answer[s.TYPE] != kind:
            raise DecodeError("id: the answer to another question")
        for key in _NEEDED[kind]:
            if key not in answer:
                raise DecodeError(s.FIELDS[key][0] + ": missing")
        return answer

    @staticmethod
    def _answer(request: list, answer: object) -> None:
        request[1] = answer
        request[0].set()

    async def _send(self, message: dict, keep: bool = False, wait: bool = True) -> None:
        payload = self._carrier.encode(message)
        if keep:
            await self._carrier.keep(payload, wait)
        else:
            await self._carrier.send(payload)

    async def _on_payload(self, payload: "Any") -> None:
        """One message from the manager. Whatever is in it, the agent lives on."""
        try:
            message = self._carrier.decode(payload)
            if message is None:
                return  # of the carrier itself
            if message[s.TO] != self.config.name:
                raise DecodeError("to: not for us")
            await self._dispatch(message)
        except LinkError:
            raise
        except KeyferryError as error:
            self._event("message-refused", error=error.name, detail=error.detail)
        except MemoryError as error:
            if self.sessions is not None:
                self.sessions.forget_ahead()
            gc.collect()
            self._event("message-refused", error="internal", detail=str(error))

    def _skipped(self, length: int) -> None:
        self._event("message-refused", error="too-large", detail="no memory for it", bytes=length)

    async def _dispatch(self, message: dict) -> None:
        kind = message[s.TYPE]
        if (
            kind in (s.REGISTERED, s.RESOLVED, s.CERTIFIED, s.ERROR)
            and message[s.FROM] != s.MANAGER
        ):
            raise DecodeError("from: only the manager sends this")
        if kind == s.ERROR and s.SESSION not in message:
            name = name_of(message[s.ERROR_CODE]) if s.ERROR_CODE in message else "internal"
            text = message.get(s.TEXT, "")
            request = self._requests.get(message.get(s.ID, -1))
            if request is not None:
                self._answer(request, RemoteError(name, text))
            else:
                self._replaced = self._replaced or name == "replaced"
                self._event("manager-error", error=name, detail=text)
        elif kind == s.SEND:
            await self._take(message)
        elif s.ID in message:
            request = self._requests.get(message[s.ID])
            if request is None or request[2] != message[s.FROM]:
                raise DecodeError("id: nobody asked")
            self._answer(request, message)
        elif s.SESSION in message:
            await self.sessions.on_message(message)
        else:
            raise DecodeError("neither id nor session")

    async def _take(self, message: dict) -> None:
        """A plain message: to the application's queue, or a refusal to its sender."""
        error = "declined" if self._messages is None else self._messages.take(message)
        answer = {
            s.TYPE: s.DELIVERED,
            s.FROM: self.config.name,
            s.TO: message[s.FROM],
            s.ID: message[s.ID],
        }
        if error:
            answer[s.ERROR_CODE] = code_of(error)
        await self._send(answer)
        self._event("plain-message", peer=message[s.FROM], bytes=len(message[s.DATA]), error=error)

    # -- inside --

    def _event(self, event: str, **fields: object) -> None:
        if self._events is not None:
            fields["ms"] = self._ms()
            self._events(event, **fields)
