"""MQTT 3.1.1 over mutual TLS, as an endpoint and not as a broker.

A device publishes signalling to ``kf/u/NAME`` and subscribes to ``kf/d/NAME``; NAME is the one
in its certificate and its client identifier. There is nothing else to publish or subscribe to,
no retained message, no will, no QoS 2, and no session that outlives a link: "session present" is
always 0. A message down has the QoS of the subscription. MQTT-x.y.z-n are the standard's
numbered statements.
"""

import asyncio
import enum
import logging
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from keyferry_core import mqtt_codec as mqtt
from keyferry_core import signalling
from keyferry_core.errors import DecodeError, RemoteError
from keyferry_manager.carriers.arrivals import Arrivals
from keyferry_manager.carriers.tls import ChannelPeer
from keyferry_manager.identity import Identity, IdentityRefused
from keyferry_manager.logs import log
from keyferry_manager.registry import Link

_LOG = logging.getLogger("keyferry.mqtt")

MAX_PACKET = 20 * 1024
# Packets of one link that are handled before the others have their turn.
_PACKETS_PER_TURN = 32


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """Bounds. Times in seconds, sizes in bytes."""

    connect_timeout: float = 10.0
    acknowledge_timeout: float = 30.0
    packets_per_second: int = 2000
    in_flight: int = 32
    queue_messages: int = 256
    queue_bytes: int = 512 * 1024
    all_queues_bytes: int = 128 * 1024 * 1024
    # Connections that one certificate may hold without having got a link.
    waiting_per_certificate: int = 8


class Host(Protocol):
    """What the endpoint needs from the manager. Only ``identify`` may wait."""

    async def identify(self, peer: ChannelPeer) -> Identity:
        """Which device it is. Raises IdentityRefused."""
        ...

    def link_up(self, link: Link) -> None:
        """Take a link, in the place of one that the device had. RemoteError when full."""
        ...

    def link_down(self, link: Link, clean: bool, reason: str) -> None:
        """A link that was taken is gone."""
        ...

    def receive(self, link: Link, payload: bytes) -> None:
        """A message from the device."""
        ...

    def refused(self, event: str, name: str, address: str, detail: str) -> None:
        """Something that a device must not do, for log and audit."""
        ...


class State(enum.Enum):
    """Where a link is. It only moves downwards."""

    CONNECTING = "connecting"  # CONNECT is awaited
    IDENTIFYING = "identifying"  # the certificate is being looked up
    ONLINE = "online"
    ENDED = "ended"


# Looked up for each packet, which an enum makes dear.
_CONNECTING, _IDENTIFYING = State.CONNECTING, State.IDENTIFYING
_ONLINE, _ENDED = State.ONLINE, State.ENDED


class MqttEndpoint:
    """Makes the protocols for a TlsListener, and holds what its links have in common."""

    def __init__(self, host: Host, settings: MqttSettings | None = None) -> None:
        self.host = host
        self.settings = settings or MqttSettings()
        self.queued_bytes = 0
        self.arrivals = Arrivals()

    def __call__(self, peer: ChannelPeer) -> asyncio.Protocol:
        """The protocol for one verified connection."""
        return MqttLink(self, peer)

    async def stop(self) -> None:
        """Give up identifications under way."""
        await self.arrivals.stop()


class MqttLink(asyncio.Protocol):
    """One connection: first whoever connected, then the link of a device."""

    __slots__ = (
        "_accepted",
        "_acks",
        "_begun",
        "_bucket",
        "_bucket_at",
        "_client_id",
        "_endpoint",
        "_expires_at",
        "_granted",
        "_heard_at",
        "_keep_alive",
        "_loop",
        "_next_id",
        "_paused",
        "_peer",
        "_queue",
        "_queue_bytes",
        "_reader",
        "_resume_scheduled",
        "_settings",
        "_task",
        "_timer",
        "_topic_down",
        "_topic_up",
        "_transport",
        "address",
        "certificate_der",
        "name",
        "state",
        "transport",
    )

    def __init__(self, endpoint: MqttEndpoint, peer: ChannelPeer) -> None:
        self._endpoint = endpoint
        self._settings = endpoint.settings
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._reader = mqtt.Reader(MAX_PACKET)
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self.state = State.CONNECTING
        self._begun = False
        self.name = ""
        self.address = peer.address
        self.transport = signalling.TRANSPORT_MQTT_TLS
        self.certificate_der = peer.certificate_der or b""
        self._client_id = ""
        self._topic_up = ""
        self._topic_down = b""
        self._keep_alive = 0.0
        self._expires_at = 0.0
        self._heard_at = self._loop.time()
        self._bucket = float(self._settings.packets_per_second)
        self._bucket_at = self._heard_at
        self._resume_scheduled = False
        self._granted: int | None = None  # the QoS of the subscription
        self._paused = False  # the transport takes no more
        self._next_id = 0
        self._accepted: list[bytes] = []  # acknowledgements of what was taken, to be sent at once
        self._acks: dict[int, float] = {}  # packet identifier to when it was sent, oldest first
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0

    # the transport's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for CONNECT, unless the same certificate waits too often already."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        most = self._settings.waiting_per_certificate
        if not self._endpoint.arrivals.enter(self.certificate_der, most):
            self.state = State.ENDED
            self._refused("too-many", "connections of one certificate that wait")
            transport.abort()
            return
        self._timer = self._loop.call_later(self._settings.connect_timeout, self._connect_late)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the device."""
        if self.state is _ENDED:
            return
        if not self._begun:
            self._begun = True
            if data[0] != mqtt.TYPE_CONNECT << 4:  # what else it says need not be awaited
                self._violation("the first packet is not CONNECT")
                return
        self._reader.feed(data)
        if self.state is not _IDENTIFYING and not self._resume_scheduled:
            self._handle_packets()

    def eof_received(self) -> bool | None:
        """The device closed; the transport does the rest."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._task is not None:
            self._task.cancel()
        self._end("lost" if exc is None else f"lost: {exc}")

    def pause_writing(self) -> None:
        """Keep messages in the queue: the transport is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """The transport has room."""
        self._paused = False
        self._drain_queue()

    @property
    def unsent(self) -> int:
        """Messages for the device that wait, or that it has not acknowledged."""
        return len(self._queue) + len(self._acks)

    def adopt(self, settings: MqttSettings) -> None:
        """Other bounds, from now on."""
        self._settings = settings

    # the relay's link

    def send(self, payload: bytes) -> bool:
        """Take one message for the device. False, and nothing taken, when there is no room."""
        if self.state is not _ONLINE:
            return False
        if not self._queue and self._may_publish():
            self._publish(payload)
            return True
        settings, endpoint, size = self._settings, self._endpoint, len(payload)
        if (
            len(self._queue) >= settings.queue_messages
            or self._queue_bytes + size > settings.queue_bytes
            or endpoint.queued_bytes + size > settings.all_queues_bytes
        ):
            return False
        self._queue.append(payload)
        self._queue_bytes += size
        endpoint.queued_bytes += size
        return True

    def close(self) -> None:
        """Send what can be sent, and end the link."""
        self._acknowledge()
        self._leave(State.ENDED)
        if self._transport is not None:
            self._transport.close()

    # connecting

    def _connect_late(self) -> None:
        if self.state in (State.CONNECTING, State.IDENTIFYING):
            self._refused("connect-timeout", f"no link in {self._settings.connect_timeout:g} s")
            self._close("connect-timeout")

    def _connect(self, packet: tuple) -> None:
        _, self._client_id, _clean, keep_alive, will, _username, _password = packet
        # User name and password are not looked at: who it is, the certificate has said.
        if will is not None:
            self._refuse(mqtt.NOT_AUTHORISED, "will-refused", "a will is not offered")
            return
        self._keep_alive = keep_alive * 1.5  # MQTT-3.1.2-24
        self.state = State.IDENTIFYING
        self._pause_reading()
        self._task = self._endpoint.arrivals.look_up(self._identify(), "mqtt-identify")

    async def _identify(self) -> None:
        try:
            identity = await self._endpoint.host.identify(self._peer)
        except IdentityRefused as refusal:
            if self.state is not _IDENTIFYING:
                return
            self.name = refusal.name
            code = mqtt.SERVER_UNAVAILABLE if refusal.temporary else mqtt.NOT_AUTHORISED
            self._refuse(code, refusal.reason, refusal.detail)
            return
        if self.state is not _IDENTIFYING:
            return
        self.name = identity.name
        if self._client_id != self.name:
            detail = f"the client identifier is {self._client_id[:80]!r}"
            self._refuse(mqtt.BAD_CLIENT_ID, "client-id-mismatch", detail)
            return
        # A certificate opens the link, so the link ends with it.
        self._expires_at = self._loop.time() + identity.expires_at - time.time()
        self._come_online()

    def _come_online(self) -> None:
        assert self._transport is not None
        try:
            self._endpoint.host.link_up(self)
        except RemoteError as error:
            self._refuse(mqtt.SERVER_UNAVAILABLE, error.name, error.detail)
            return
        self._leave(State.ONLINE)
        self._topic_up = "kf/u/" + self.name
        self._topic_down = mqtt.topic_field("kf/d/" + self.name)
        self._heard_at = self._loop.time()
        self._timer = self._loop.call_later(self._next_check(), self._check_times)
        self._transport.write(mqtt.connack(mqtt.ACCEPTED))
        self._handle_packets()

    # packets

    def _handle_packets(self) -> None:
        """Handle what has come, for as long as this link may, and acknowledge it."""
        self._heard_at = self._loop.time()
        try:
            self._take_turn()
        finally:
            self._acknowledge()

    def _take_turn(self) -> None:
        turn = _PACKETS_PER_TURN
        next_packet = self._reader.next_packet
        while self.state is _ONLINE or self.state is _CONNECTING:
            try:
                packet = next_packet()
            except DecodeError as error:
                self._malformed(error)
                return
            if packet is None:
                self._resume_reading()
                return
            if self.state is _CONNECTING:
                self._connect(packet)  # MQTT-3.1.0-1 was seen to with its first byte
                packets = 1
            elif packet[0] == mqtt.TYPE_PUBLISH:
                self._on_publish(packet)
                packets = 1
            elif packet[0] == mqtt.TYPE_PUBACK:
                packets = self._on_pubacks(packet[1], turn)
            else:
                self._handle(packet)
                packets = 1
            turn -= packets
            self._bucket -= packets
            if turn > 0 and self._bucket >= 1.0:
                continue
            self._refill()
            wait = 0.0 if self._bucket >= 1.0 else 32.0 / self._settings.packets_per_second
            if (wait or turn <= 0) and self.state is _ONLINE:
                # Others first. What is in the reader stays there; no more is read meanwhile.
                self._pause_reading()
                self._resume_scheduled = True
                self._loop.call_later(wait, self._continue)
                return

    def _continue(self) -> None:
        self._resume_scheduled = False
        self._refill()
        self._handle_packets()

    def _refill(self) -> None:
        now = self._loop.time()
        rate = self._settings.packets_per_second
        self._bucket = min(float(rate), self._bucket + (now - self._bucket_at) * rate)
        self._bucket_at = now

    def _handle(self, packet: tuple) -> None:
        kind = packet[0]
        if kind == mqtt.TYPE_PINGREQ:
            self._write(mqtt.PINGRESP)
        elif kind == mqtt.TYPE_SUBSCRIBE:
            self._on_subscribe(packet)
        elif kind == mqtt.TYPE_UNSUBSCRIBE:
            if "kf/d/" + self.name in packet[2]:
                self._granted = None
            self._write(mqtt.unsuback(packet[1]))
        elif kind == mqtt.TYPE_DISCONNECT:
            self._end("disconnected", clean=True)
            self._close_transport()
        else:  # a second CONNECT (MQTT-3.1.0-2), or what only a server sends
            self._violation(f"packet type {kind}")

    def _on_publish(self, packet: tuple) -> None:
        _, topic, payload, qos, packet_id, retain, _ = packet
        if topic != self._topic_up:
            # MQTT 3.1.1 has no refusal of a PUBLISH: an acknowledgement would say that it went
            # somewhere (section 3.3.5), so the connection ends.
            self._refused("topic-refused", f"publish to {topic[:100]!r}")
            self._close("topic-refused")
            return
        if retain:
            self._refused("retain-refused", "a retained message is not offered")
            self._close("retain-refused")
            return
        self._endpoint.host.receive(self, payload)
        if qos:
            # Only now: what is acknowledged has been taken, and answered if it was refused.
            self._accepted.append(mqtt.puback(packet_id))

    def _acknowledge(self) -> None:
        """Send the acknowledgements of this turn in one piece."""
        if self._accepted:
            self._write(b"".join(self._accepted))
            self._accepted.clear()

    def _on_pubacks(self, packet_id: int, most: int) -> int:
        """A device acknowledges what came together together: take all that is there, up to
        ``most``, before more is sent. How many there were."""
        acks = self._acks
        acks.pop(packet_id, None)
        following = self._reader.take_pubacks(most - 1)
        for packet_id in following:
            acks.pop(packet_id, None)
        if self._queue:
            self._drain_queue()
        return 1 + len(following)

    def _on_subscribe(self, packet: tuple) -> None:
        _, packet_id, filters = packet
        codes = bytearray()
        for text, qos in filters:
            if text == "kf/d/" + self.name:
                self._granted = min(qos, 1)
                codes.append(self._granted)
            else:
                codes.append(mqtt.SUBSCRIBE_FAILED)
                self._refused("topic-refused", f"subscribe to {text[:100]!r}")
        self._write(mqtt.suback(packet_id, bytes(codes)))
        self._drain_queue()

    # sending

    def _may_publish(self) -> bool:
        return (
            self._granted is not None
            and not self._paused
            and (self._granted == 0 or len(self._acks) < self._settings.in_flight)
        )

    def _publish(self, payload: bytes) -> None:
        assert self._transport is not None
        if self._granted:
            # There are far fewer in flight than identifiers, so a free one is near.
            number, acks = self._next_id % 0xFFFF + 1, self._acks
            while number in acks:
                number = number % 0xFFFF + 1
            self._next_id = number
            acks[number] = self._loop.time()
            self._transport.write(mqtt.publish(self._topic_down, payload, 1, number))
        else:
            self._transport.write(mqtt.publish(self._topic_down, payload))

    def _drain_queue(self) -> None:
        while self._queue and self.state is _ONLINE and self._may_publish():
            payload = self._queue.popleft()
            self._queue_bytes -= len(payload)
            self._endpoint.queued_bytes -= len(payload)
            self._publish(payload)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    # time

    def _next_check(self) -> float:
        """Seconds until the clock must be looked at again."""
        now = self._loop.time()
        wait = self._settings.acknowledge_timeout
        if self._acks:
            wait = next(iter(self._acks.values())) + wait - now
        wait = min(wait, self._expires_at - now)
        if self._keep_alive:
            wait = min(wait, self._heard_at + self._keep_alive - now)
        return max(wait, 0.01)

    def _check_times(self) -> None:
        if self.state is not State.ONLINE:
            return
        now = self._loop.time()
        if now >= self._expires_at:
            self._refused("certificate-expired", "while its link was up")
            self._close("certificate-expired")
            return
        if self._keep_alive and now - self._heard_at >= self._keep_alive:
            self._refused("keep-alive-timeout", f"silent for {self._keep_alive:g} s")
            self._close("keep-alive-timeout")
            return
        if self._acks:
            oldest = next(iter(self._acks.values()))
            if now - oldest >= self._settings.acknowledge_timeout:
                self._refused("acknowledge-timeout", f"{len(self._acks)} messages unacknowledged")
                self._close("acknowledge-timeout")
                return
        self._timer = self._loop.call_later(self._next_check(), self._check_times)

    # ending

    def _malformed(self, error: DecodeError) -> None:
        if self.state is State.CONNECTING and error.name == "unsupported":
            self._refuse(mqtt.BAD_PROTOCOL_LEVEL, "mqtt-unsupported", error.detail)
        else:
            self._violation(error.detail)

    def _violation(self, detail: str) -> None:
        self._refused("mqtt-violation", detail)
        self._close("mqtt-violation")

    def _refuse(self, code: int, event: str, detail: str) -> None:
        """Answer CONNECT with a code and end."""
        self._refused(event, detail)
        self._write(mqtt.connack(code))
        self._close(event)

    def _refused(self, event: str, detail: str) -> None:
        self._endpoint.host.refused(event, self.name, self.address, detail)

    def _close(self, reason: str) -> None:
        self._end(reason)
        self._close_transport()

    def _close_transport(self) -> None:
        self._acknowledge()
        if self._transport is not None:
            self._transport.close()

    def _end(self, reason: str, clean: bool = False) -> None:
        """Leave whatever state this is for the last one, and tell the manager of a lost link."""
        before = self.state
        self._leave(State.ENDED)
        if before is _ONLINE:
            self._endpoint.host.link_down(self, clean, reason)
        elif before in (State.CONNECTING, State.IDENTIFYING):
            log(_LOG, logging.DEBUG, "not-connected", address=self.address, reason=reason)

    def _leave(self, state: State) -> None:
        before, self.state = self.state, state
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if before in (State.CONNECTING, State.IDENTIFYING):
            self._endpoint.arrivals.leave(self.certificate_der)
        if state is _ENDED:
            self._endpoint.queued_bytes -= self._queue_bytes
            self._queue_bytes = 0
            self._queue.clear()
            self._acks.clear()
