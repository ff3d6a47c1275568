"""Signalling over MQTT 3.1.1: publish on ``kf/u/NAME``, receive on ``kf/d/NAME``.

One task reads, one writes, one watches the time. Only the writer touches the stream, so that a
caller who gives up in the middle of ``send`` never leaves half a packet behind.

Bounds: QUEUE packets wait for the writer; WINDOW kept messages, WINDOW_BYTES together, wait for
their PUBACK. A caller that finds no room waits. Kept messages outlive the link: ``resume`` sends
again those that were not acknowledged, so the other end may see one twice.
"""

import asyncio
import gc

from keyferry_agent.errors import LinkError
from keyferry_core import cbor
from keyferry_core import mqtt_client as mqtt
from keyferry_core.errors import AuthenticationError, DecodeError
from keyferry_core.signalling import MAX_MESSAGE, TRANSPORT_MQTT_TLS, check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

QUEUE = 8
WINDOW = 4
WINDOW_BYTES = 10240
# A whole packet: the message, its topic and the header.
MAX_PACKET = MAX_MESSAGE + 128
# Seconds for the answers to CONNECT (the TLS handshake included) and to SUBSCRIBE, each.
ANSWER_TIMEOUT = 15
# The watch looks this many times per keep-alive, and gives up after this many looks.
_LOOKS = 2
_PATIENCE = 3
# A packet above so many bytes is read only when so many times its size of memory is free: there
# are copies of it as packet, payload, record and plaintext, and big integers in AES-CCM.
_LARGE = 512
_NEED = 8


def _has_room(size: int) -> bool:
    if not hasattr(gc, "mem_free"):
        return True  # CPython
    if gc.mem_free() < size:
        gc.collect()
    return gc.mem_free() >= size


class MqttCarrier:
    """One device's link; it can be opened again after it ended.

    ``opener()`` gives (reader, writer), asyncio streams with a verified manager behind them.
    ``skipped(bytes)`` is told of each packet that there was no memory for.
    """

    transport = TRANSPORT_MQTT_TLS

    def __init__(
        self,
        name: str,
        keep_alive: int,
        opener: "Callable[[], Awaitable]",
        skipped: "Callable[[int], None]",
    ) -> None:
        self.skipped = skipped
        self._name = name
        self._keep_alive = keep_alive
        self._opener = opener
        self._down = "kf/d/" + name
        self._up = mqtt.topic_field("kf/u/" + name)
        self._reader = None
        self._writer = None
        self._queue: list[bytes] = []  # packets for the writer
        self._kept: list[tuple[int, bytes]] = []  # (packet id, payload) without PUBACK
        self._kept_bytes = 0
        self._packet_id = 0
        self._work = asyncio.Event()  # the writer has something to do
        self._room = asyncio.Event()  # something moved: whoever waits for room looks again
        self._ready = False  # registered: kept messages may go out
        self._silent = 0  # looks of the watch since anything came
        self._stuck = 0  # looks since a PUBACK came that was due

    # -- the life of a link --

    async def open(self) -> None:
        """Connect, authenticate and subscribe. KeyferryError, OSError, ValueError, EOFError."""
        self._queue = []
        self._silent = self._stuck = 0
        self._reader, self._writer = await self._opener()
        await self._first_write(mqtt.connect(self._name, self._keep_alive))
        packet = await asyncio.wait_for(self._packet(), ANSWER_TIMEOUT)
        if packet[0] != mqtt.TYPE_CONNACK:
            raise DecodeError("mqtt: expected CONNACK")
        code = packet[1]
        if code in (mqtt.BAD_CLIENT_ID, mqtt.BAD_CREDENTIALS, mqtt.NOT_AUTHORISED):
            raise AuthenticationError("mqtt: the manager refuses us, CONNACK " + str(code))
        if code:
            raise LinkError("mqtt: CONNACK " + str(code))
        await self._first_write(mqtt.subscribe(1, [(self._down, 1)]))
        packet = await asyncio.wait_for(self._packet(), ANSWER_TIMEOUT)
        if packet[:2] != (mqtt.TYPE_SUBACK, 1) or len(packet[2]) != 1:
            raise DecodeError("mqtt: expected SUBACK")
        if packet[2][0] == mqtt.SUBSCRIBE_FAILED:
            raise AuthenticationError("mqtt: the manager refuses the subscription")

    async def run(self, handler: "Callable[[bytes], Awaitable]") -> None:
        """Hand each payload to ``handler`` until the link ends, always with an exception.

        While ``handler`` takes its time nothing more is read: that is the back-pressure.
        """
        reading = asyncio.current_task()
        timed_out: list[str] = []
        writer = asyncio.create_task(self._write_all(reading, timed_out))
        watch = asyncio.create_task(self._watch(reading, timed_out))
        try:
            while True:
                packet = await self._packet()
                self._silent = 0
                kind = packet[0]
                if kind == mqtt.TYPE_PUBLISH:
                    if packet[1] != self._down:
                        raise DecodeError("mqtt: a topic that was not asked for")
                    if packet[2] is not None:
                        await handler(packet[2])
                    if packet[3]:
                        await self._put(mqtt.puback(packet[4]))
                elif kind == mqtt.TYPE_PUBACK:
                    self._acknowledged(packet[1])
                elif kind != mqtt.TYPE_PINGRESP:
                    raise DecodeError("mqtt: a packet that no server sends here")
        except asyncio.CancelledError:
            if timed_out:
                raise LinkError(timed_out[0], "timeout") from None
            raise
        finally:
            self._ready = False
            writer.cancel()
            watch.cancel()

    async def close(self, politely: bool = False) -> None:
        """Close the link if there is one; ``politely`` with a DISCONNECT. Never raises."""
        writer, self._writer = self._writer, None
        self._ready = False
        self._room.set()
        if writer is None:
            return
        try:
            if politely:
                writer.write(mqtt.DISCONNECT)
                await asyncio.wait_for(writer.drain(), 2)
        except Exception:
            pass  # it is gone already, which is what was wanted
        try:
            writer.close()
            await asyncio.wait_for(writer.wait_closed(), 2)
        except Exception:
            pass

    # -- signalling as payloads --

    @staticmethod
    def encode(message: dict) -> bytes:
        """What ``send`` and ``keep`` take."""
        return cbor.encode(message)

    @staticmethod
    def decode(payload: bytes) -> dict:
        """The signalling in what ``run`` hands over, held to its contract. DecodeError."""
        return check(cbor.decode(payload), False)

    # -- sending --

    async def send(self, payload: bytes) -> None:
        """Send once, with QoS 0. LinkError when there is no link."""
        await self._put(mqtt.publish(self._up, payload))

    async def keep(self, payload: bytes, wait: bool = True) -> None:
        """Send with QoS 1, again after each new link until the manager has it.

        Waits for room, for hours if there is no link. With ``wait`` False it does not: for
        answers given from inside ``run``'s handler, whose number is bounded elsewhere.
        """
        while wait and not self._fits(len(payload)):
            self._room.clear()
            await self._room.wait()
        self._packet_id = self._packet_id % 0xFFFF + 1
        self._kept.append((self._packet_id, payload))
        self._kept_bytes += len(payload)
        if self._ready:
            await self._put(mqtt.publish(self._up, payload, 1, self._packet_id))

    def resume(self) -> None:
        """The link is registered: send what an earlier link left unacknowledged."""
        self._ready = True
        for packet_id, payload in self._kept:
            self._queue.append(mqtt.publish(self._up, payload, 1, packet_id))
        self._work.set()
        self._room.set()

    async def flush(self, seconds: int) -> None:
        """Wait until all that was sent has been written and acknowledged, so long at most."""
        for _ in range(seconds * 20):
            if self._writer is None or not (self._queue or self._kept):
                return
            await asyncio.sleep(0.05)

    # -- inside --

    def _fits(self, length: int) -> bool:
        if not self._ready or len(self._kept) >= WINDOW:
            return False
        return not self._kept or self._kept_bytes + length <= WINDOW_BYTES

    def _acknowledged(self, packet_id: int) -> None:
        for i in range(len(self._kept)):
            if self._kept[i][0] == packet_id:
                self._kept_bytes -= len(self._kept.pop(i)[1])
                self._stuck = 0
                self._room.set()
                return
        # Not ours: the answer to a message of the link before. Nothing to do.

    async def _put(self, packet: bytes) -> None:
        while len(self._queue) >= QUEUE and self._writer is not None:
            self._room.clear()
            await self._room.wait()
        if self._writer is None:
            raise LinkError("there is no link")
        self._queue.append(packet)
        self._work.set()

    async def _first_write(self, packet: bytes) -> None:
        self._writer.write(packet)
        await asyncio.wait_for(self._writer.drain(), ANSWER_TIMEOUT)

    async def _write_all(self, reading, failed: list[str]) -> None:
        try:
            while True:
                while self._queue:
                    self._writer.write(self._queue.pop(0))
                    self._room.set()
                    await self._writer.drain()
                self._work.clear()
                await self._work.wait()
        except (OSError, ValueError, AttributeError) as error:
            # AttributeError: closed meanwhile
            failed.append("writing failed: " + str(error))
            reading.cancel()

    async def _watch(self, reading, failed: list[str]) -> None:
        while True:
            await asyncio.sleep(self._keep_alive / _LOOKS)
            self._silent += 1
            self._stuck = self._stuck + 1 if self._kept and self._ready else 0
            if self._silent > _PATIENCE or self._stuck > _PATIENCE:
                failed.append("the manager is silent")
                reading.cancel()
                return
            if len(self._queue) < QUEUE:
                self._queue.append(mqtt.PINGREQ)
                self._work.set()

    async def _packet(self) -> tuple:
        head = await self._reader.readexactly(2)
        length = head[1] & 0x7F
        more = head[1]
        shift = 7
        while more > 0x7F:
            if shift > 21:
                raise DecodeError("mqtt: a remaining length of more than four bytes")
            more = (await self._reader.readexactly(1))[0]
            length |= (more & 0x7F) << shift
            shift += 7
        if length > MAX_PACKET:
            raise DecodeError("mqtt: a packet of " + str(length) + " bytes", "too-large")
        if length > _LARGE and not _has_room(_NEED * length):
            return await self._skip(head[0], length)
        return mqtt.parse(head[0], await self._reader.readexactly(length) if length else b"")

    async def _skip(self, first: int, length: int) -> tuple:
        """Let a packet pass that there is no memory for; it counts as received."""
        # What comes before the payload: topic and packet identifier.
        start = min(len(self._down) + 4, length)
        packet = mqtt.parse(first, await self._reader.readexactly(start))
        left = length - start
        while left:
            left -= len(await self._reader.readexactly(min(left, _LARGE)))
        self.skipped(length)
        return packet[:2] + (None,) + packet[3:] if packet[0] == mqtt.TYPE_PUBLISH else packet
