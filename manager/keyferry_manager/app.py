"""The manager as a whole: which part gets which, started and stopped in order."""

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from keyferry_core.errors import KeyferryError
from keyferry_manager import reload, settings
from keyferry_manager.api.manager import AdminApi
from keyferry_manager.audit import AuditTrail, BatchWriter
from keyferry_manager.audit.heads import HeadKeeper
from keyferry_manager.authority import LocalAuthority, open_authority
from keyferry_manager.carriers.est import Est
from keyferry_manager.carriers.http import HttpEndpoint
from keyferry_manager.carriers.mqtt import MqttEndpoint, MqttLink
from keyferry_manager.carriers.plain import PlainListener
from keyferry_manager.carriers.signed_time import CONNECTIONS, PER_ADDRESS, SignedTime
from keyferry_manager.carriers.sip import SipEndpoint, SipLink
from keyferry_manager.carriers.status import Status
from keyferry_manager.carriers.tls import (
    Refusal,
    TlsListener,
    server_context,
)
from keyferry_manager.certifier import Certifier
from keyferry_manager.changes import Changes
from keyferry_manager.config import Config
from keyferry_manager.directory import DirectoryUnavailable
from keyferry_manager.directory.remote import KeysElsewhere, RemoteDirectory
from keyferry_manager.host import CarrierHost
from keyferry_manager.identity import Identifier
from keyferry_manager.issuing import Issuing
from keyferry_manager.logs import log
from keyferry_manager.observe.listener import Counted
from keyferry_manager.observe.measures import Measures
from keyferry_manager.observe.service import Observation
from keyferry_manager.problems import ConfigProblem, StoreProblem
from keyferry_manager.registry import Link
from keyferry_manager.relay import Relay
from keyferry_manager.relay.parking import resume, suspend
from keyferry_manager.relay.trace import TraceFile
from keyferry_manager.store import AgreementKey, Store
from keyferry_manager.upkeep import Upkeep, every

_LOG = logging.getLogger("keyferry.manager")
# Seconds between looks at the clock, and at what the command line changed: a new policy is in
# force, and what it ends has ended, within half a second.
_TICK = 0.5
_RELOAD = 0.2
# Seconds between looks at our own certificate's expiry.
_RENEWAL_CHECK = 3600.0
# Seconds between signed heads of the audit trail, while something happens.
_HEADS = 60.0
# Seconds between looks at how long certificates still last.
_LOOK = 60.0
# Seconds between looks at what is still on its way, when the manager drains.
_DRAIN_LOOK = 0.05
# Seconds that the last of them, and what is left to the next run, may take.
_LAST_HEAD = 5.0


class Manager:
    """A manager for the home that ``keyferry init`` made.

    ``trace`` names a file for relay/trace.py. ``start`` raises Problem with a sentence for the
    operator; after it, or after ``stop``, nothing of this object is left running.
    """

    def __init__(self, home: Path | str, *, trace: Path | None = None) -> None:
        self.config = Config.load(home)
        role = self.config.role
        if role != "manager":
            what = "CA" if role == "ca" else role
            raise ConfigProblem(f"{home} is the home of a {what}: run 'keyferry {role} serve'.")
        self._trace_path = trace
        self._stack = contextlib.AsyncExitStack()
        self._mqtt_listener: TlsListener | None = None
        self._sip_listener: TlsListener | None = None
        self._time: SignedTime | None = None
        self._time_listener: PlainListener | None = None
        self.sip: SipEndpoint | None = None
        self.measures = Measures()
        self.observation: Observation | None = None
        self._directory: RemoteDirectory | None = None
        self._status: Status | None = None

    async def start(self) -> None:
        """Open the database and the listeners."""
        async with contextlib.AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        log(
            _LOG,
            logging.INFO,
            "manager-started",
            realm=self.config.realm,
            mqtt_port=self.mqtt_port,
            est_port=self.est_port,
            sip_port=self.sip_port,
        )

    async def drain(self) -> None:
        """Take no new connections, and let what is on its way arrive, for ``drain_seconds``."""
        assert self._mqtt_listener is not None
        if self.observation is not None:
            self.observation.draining = True
        for listener in (self._mqtt_listener, self._sip_listener, self._est_listener):
            if listener is not None:
                listener.stop_accepting()
        loop = asyncio.get_running_loop()
        end = loop.time() + self.config.drain_seconds
        log(_LOG, logging.INFO, "draining", messages=self._unsent())
        while self._unsent() and loop.time() < end:
            await asyncio.sleep(_DRAIN_LOOK)
        if self._unsent():
            log(_LOG, logging.WARNING, "drain-ended", messages=self._unsent())

    async def stop(self) -> None:
        """Close every link, leave sessions to the next run, write down what is left."""
        await self._stack.aclose()
        # How many messages went through, and how many were answered with which error.
        log(_LOG, logging.INFO, "manager-stopped", **self.relay.counters)

    @property
    def mqtt_port(self) -> int:
        """The port that MQTT is listened on."""
        assert self._mqtt_listener is not None
        return self._mqtt_listener.port

    @property
    def sip_port(self) -> int:
        """The port that SIP is listened on, -1 when it is not."""
        return -1 if self._sip_listener is None else self._sip_listener.port

    @property
    def est_port(self) -> int:
        """The port that EST is listened on."""
        return self._est_listener.port

    @property
    def time_port(self) -> int:
        """The port that signed time is given on, -1 when it is not."""
        return -1 if self._time_listener is None else self._time_listener.port

    @property
    def observe_port(self) -> int:
        """The port for metrics, 0 when there is none."""
        on = self.observation is not None and self.config.observe_host
        return self.observation.listener.port if on and self.observation else 0

    @property
    def api_port(self) -> int | None:
        """The port of the admin API over TCP, if it is listened on."""
        return self._api.port

    def reconfigure(self) -> None:
        """Read the settings anew, and do what of them can be done while the manager runs.

        A bad file changes nothing. What happened is in the log and the audit trail.
        """
        try:
            change = reload.compare(self.config, Config.load(self.config.home))
        except ConfigProblem as problem:
            self.trail.refused("config-not-reloaded", "", "", str(problem))
            return
        self.config = config = change.config
        reload.set_log_level(config)
        self.relay.adopt(settings.relay(config))
        self._endpoint.settings = mqtt = settings.mqtt(config)
        if self.sip is not None:
            self.sip.settings = settings.sip(config)
        for presence in self.relay.registry:
            if isinstance(presence.link, MqttLink):
                presence.link.adopt(mqtt)
            elif isinstance(presence.link, SipLink):
                presence.link.adopt()
        for listener in (self._mqtt_listener, self._sip_listener):
            if listener is not None:
                listener.limits = settings.links(config)
        self._authority.adopt(config)
        self._issuing.adopt(config)
        if self._status is not None:
            self._status.adopt(config)
        self._api.adopt(config)
        self.trail.ok(
            "config-reloaded",
            "",
            "",
            f"at the next start: {', '.join(change.at_restart)}" if change.at_restart else "",
            changed=list(change.changed),
            at_restart=list(change.at_restart),
        )

    # inside

    def _unsent(self) -> int:
        links = [presence.link for presence in self.relay.registry]
        unsent = sum(link.unsent for link in links if isinstance(link, (MqttLink, SipLink)))
        return unsent + len(self._certifier)

    async def _suspend(self) -> None:
        """Close the links, and leave to the next run what it can go on with."""
        document = suspend(self.relay, _give_up)
        if document is None:
            return
        try:
            async with asyncio.timeout(_LAST_HEAD):
                await self.store.presences.park(document, time.time())
        except Exception as error:  # of any driver; devices hear from the next run that it is lost
            log(_LOG, logging.ERROR, "sessions-not-left", error=type(error).__name__)

    async def _resume(self) -> None:
        """Go on with the sessions that the last run left, if it was a moment ago."""
        parked = await self.store.presences.take_parked()
        # A clock that was set back counts as late: the moment is not known then.
        if parked is None or not 0 <= time.time() - parked[0] < self.config.session_grace:
            return
        sessions = resume(self.relay, parked[1])
        for session in sessions:
            self.trail.session(session)
        self.trail.ok("sessions-resumed", "", "", sessions=len(sessions))

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        config = self.config
        # The stack runs backwards at the end: what is opened first is closed last.
        self.store = store = await stack.enter_async_context(Store.open(config.database_url))
        await store.migrate()
        await store.end_open_sessions("manager-restarted")
        await store.presences.forget_links()
        self._authority = open_authority(config)
        await self._authority.keep_server()
        stack.push_async_callback(self._authority.close)

        heads = HeadKeeper(store, config.realm, config.home, self._authority.server_file)
        stack.push_async_callback(_last_head, heads)
        sink: Store | KeysElsewhere = store
        if config.directory_socket:
            self._directory = directory = RemoteDirectory(config.directory_socket)
            stack.push_async_callback(directory.close)
            sink = KeysElsewhere(store, directory)
        writer = BatchWriter(sink)
        writer.start()
        stack.push_async_callback(writer.stop)
        self.trail = AuditTrail(writer)
        stack.callback(self.trail.finish)
        trace = None
        if self._trace_path is not None:
            try:
                trace = TraceFile(self._trace_path)
            except OSError as error:
                path = self._trace_path
                raise ConfigProblem(f"cannot write the trace {path}: {error.strerror}.") from None
            stack.callback(trace.close)
        self.relay = Relay(settings.relay(config), self.trail, trace)
        self.relay.anchors.current = self._authority.cacerts_digest()
        self._identifier = Identifier(self._authority, store, directory=self._directory)
        self.relay.keys.load(await self._agreement_keys())
        await self._resume()
        self.changes = Changes(
            *(store, self.relay, self._identifier, self._authority, self.trail, self.measures),
            self._new_link_context,
        )
        await self.changes.take_over()

        self._issuing = issuing = Issuing(
            config, store, self._authority, writer.entry, directory=self._directory
        )
        self._certifier = Certifier(
            self.relay, issuing.renew, self._authority.cacerts, self.measures.count_certify
        )
        self.relay.certify = self._certifier.begin
        stack.push_async_callback(self._certifier.stop)
        await self._listen_for_est(stack)
        if config.sip_port >= 0:
            await self._listen_for_sip(stack)
        await self._listen_for_mqtt(stack)
        if config.time_port >= 0:
            await self._listen_for_time(stack)
        await self._observe(stack, writer)
        self._api = AdminApi(config, store, self.trail, self._api_context)
        await self._api.start(stack)
        upkeep = self._upkeep = Upkeep(
            store, self.relay, self._authority, self.changes, self.trail, self._renew_contexts
        )
        self._every(stack, _TICK, upkeep.tick)
        self._every(stack, _RELOAD, self.changes.take_over)
        self._every(stack, _TICK, upkeep.roll_over)
        self._every(stack, _RENEWAL_CHECK, upkeep.renew)
        self._every(stack, _HEADS, heads.keep)
        if isinstance(sink, KeysElsewhere):
            self._every(stack, _TICK, sink.flush)
        if not isinstance(self._authority, LocalAuthority):
            from keyferry_manager.follow import Follower

            follower = Follower(store, self._authority, self.trail)
            self._every(stack, _TICK, lambda: follower.tick(self.changes.version))

    async def _agreement_keys(self) -> list[AgreementKey]:
        if self._directory is None:
            return await self.store.presences.keys()
        try:
            return await self._directory.agreement_keys()
        except DirectoryUnavailable as error:
            raise StoreProblem(f"{error}: start 'keyferry directory serve' first.") from None

    async def _listen_for_est(self, stack: contextlib.AsyncExitStack) -> None:
        app = Est(self.config.realm, self._authority, self._issuing).app()
        if isinstance(self._authority, LocalAuthority):
            self._status = Status(config=self.config, store=self.store, authority=self._authority)
            self._status.add_to(app)
        else:
            from keyferry_manager.carriers.status_remote import RemoteStatus

            RemoteStatus(self._authority).add_to(app)
        endpoint = HttpEndpoint(Counted(app, self.measures.count_est))
        self._est_listener = TlsListener(
            "est", self._est_context(), endpoint, self.trail.connection_refused, settings.EST_LIMITS
        )
        stack.push_async_callback(self._est_listener.stop)
        stack.push_async_callback(endpoint.stop)
        await self._listen(self._est_listener, self.config.est_port, "est_port")
        stack.callback(self._est_listener.stop_accepting)

    async def _listen_for_mqtt(self, stack: contextlib.AsyncExitStack) -> None:
        config = self.config
        host = CarrierHost(self._identifier, self.relay, self.trail, self.measures.relay.observe)
        endpoint = self._endpoint = MqttEndpoint(host, settings.mqtt(config))
        listener = self._mqtt_listener = TlsListener(
            "mqtt", self._mqtt_context(), endpoint, self._connection_refused, settings.links(config)
        )
        stack.push_async_callback(listener.stop)
        stack.push_async_callback(endpoint.stop)
        stack.push_async_callback(self._suspend)
        await self._listen(listener, config.mqtt_port, "mqtt_port")
        stack.callback(listener.stop_accepting)

    async def _listen_for_sip(self, stack: contextlib.AsyncExitStack) -> None:
        config = self.config
        host = CarrierHost(self._identifier, self.relay, self.trail, self.measures.relay.observe)
        hosts = ("localhost", config.public_host, config.device_host, *config.server_names)
        endpoint = SipEndpoint(
            host, config.realm, settings.sip(config), filter(None, hosts), self.measures
        )
        self.sip = endpoint
        listener = self._sip_listener = TlsListener(
            "sip", self._mqtt_context(), endpoint, self._connection_refused, settings.links(config)
        )
        stack.push_async_callback(listener.stop)
        stack.push_async_callback(endpoint.stop)
        await self._listen(listener, config.sip_port, "sip_port")
        stack.callback(listener.stop_accepting)

    async def _listen_for_time(self, stack: contextlib.AsyncExitStack) -> None:
        config = self.config
        self._time = SignedTime(self._authority.server_file, config.realm)
        listener = self._time_listener = PlainListener(self._time, CONNECTIONS, PER_ADDRESS)
        stack.push_async_callback(listener.stop)
        await _start_listening(
            listener, config.listen_host, config.time_port, "listen", "time_port"
        )

    def _new_link_context(self) -> None:
        """Let the listeners of both carriers do their next handshakes with what is known now."""
        for listener in (self._mqtt_listener, self._sip_listener):
            if listener is not None:
                listener.replace_context(self._mqtt_context())

    async def _listen(self, listener: TlsListener, port: int, key: str) -> None:
        await _start_listening(listener, self.config.listen_host, port, "listen", key)

    async def _observe(self, stack: contextlib.AsyncExitStack, writer: BatchWriter) -> None:
        assert self._mqtt_listener is not None
        self.observation = observation = Observation(
            self.measures,
            self.relay,
            self.trail,
            writer,
            self.store,
            self._authority,
            [
                listener
                for listener in (self._mqtt_listener, self._est_listener, self._sip_listener)
                if listener is not None
            ],
        )
        config = self.config
        if not config.observe_host:
            return
        await observation.look()
        stack.push_async_callback(observation.listener.stop)
        await _start_listening(
            observation.listener, config.observe_host, config.observe_port, "observe", "port"
        )
        self._every(stack, _LOOK, observation.look)

    def _mqtt_context(self) -> ssl.SSLContext:
        return server_context(
            self._authority.server_file,
            self._authority.trusted_by_links(),
            certificate_required=True,
            revoked=self.changes.for_handshakes,
        )

    def _connection_refused(self, refusal: Refusal) -> None:
        """Name the device whose revoked certificate was refused, when it is one of ours."""
        name = ""
        if refusal.certificate_der is not None:
            with contextlib.suppress(KeyferryError):
                name = self._authority.identify(refusal.certificate_der).name
        self.trail.connection_refused(refusal, name)

    def _est_context(self) -> ssl.SSLContext:
        return server_context(
            self._authority.server_file,
            self._authority.trusted_by_enrolment(),
            certificate_required=False,
            # A device may renew late. enrolment.check_dates is asked for each operation instead.
            check_dates=False,
        )

    def _api_context(self) -> ssl.SSLContext:
        context = server_context(
            self._authority.server_file,
            self._authority.trusted_by_links(),
            certificate_required=False,
        )
        context.verify_mode = ssl.CERT_NONE  # a token says who asks
        return context

    def _every(
        self,
        stack: contextlib.AsyncExitStack,
        seconds: float,
        action: Callable[[], Awaitable[None]],
    ) -> None:
        every(stack, seconds, action, self.measures.faults)

    def _renew_contexts(self) -> None:
        """Let every listener do its next handshakes with the certificates that there are now."""
        self._new_link_context()
        if self._time is not None:
            self._time.adopt()
        self._est_listener.replace_context(self._est_context())
        self._api.renew()


async def _start_listening(
    listener: TlsListener | PlainListener, host: str, port: int, section: str, key: str
) -> None:
    try:
        await listener.start(host, port)
    except OSError as error:
        raise ConfigProblem(
            f"cannot listen on {host} port {port}: {error.strerror}. Change {section}.{key} or "
            f"{section}.host, or stop what has the port."
        ) from None


async def _last_head(heads: HeadKeeper) -> None:
    """Sign the head that stays. A database or disk that is away keeps nobody from stopping."""
    try:
        async with asyncio.timeout(_LAST_HEAD):
            await heads.keep()
    except Exception as error:  # of any driver
        log(_LOG, logging.ERROR, "audit-head-not-kept", error=type(error).__name__)


def _give_up(link: Link) -> None:
    if isinstance(link, SipLink):
        link.give_up()
