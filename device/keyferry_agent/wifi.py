"""Keeps the board's radio on the network that ``wifi.json`` names.

    {"ssid": "plant", "password": "correct horse"}

The radio is joined, looked at, and joined again with backoff and jitter when it is down; two
events, ``wifi-up`` and ``wifi-down``, say what is so and why. The password goes to the radio's
driver and nowhere else: no text of an exception that a driver raises is passed on.
"""

import asyncio
import json

from keyferry_agent.errors import jitter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from keyferry_agent.board import Board
    from keyferry_agent.radio import Radio

# Seconds between two attempts: doubled from the first to the last, with jitter.
BACKOFF = (1, 60)
# Seconds for one attempt, between two looks during it, and between two looks at a radio that is up.
JOIN_TIMEOUT = 20
LOOK = 0.2
LOOK_UP = 2
MAX_FILE = 512

# What WLAN.status() says, by the constants' names: the numbers differ between ports.
_FAILURES = (
    ("STAT_WRONG_PASSWORD", "wrong-password"),
    ("STAT_HANDSHAKE_TIMEOUT", "wrong-password"),  # what an access point does about one
    ("STAT_NO_AP_FOUND", "no-such-network"),
    ("STAT_NO_AP_FOUND_W_COMPATIBLE_SECURITY", "no-such-network"),
    ("STAT_NO_AP_FOUND_IN_AUTHMODE_THRESHOLD", "no-such-network"),
    ("STAT_NO_AP_FOUND_IN_RSSI_THRESHOLD", "no-such-network"),
    ("STAT_CONNECT_FAIL", "refused"),
    ("STAT_ASSOC_FAIL", "refused"),
    ("STAT_BEACON_TIMEOUT", "lost"),
)
# ESP32 passes the radio's own numbers on, which are under 256: of these 15 is a four-way handshake
# without an end. On RP2, which has no constant for it, 2 is a network that gave no address yet.
_ESP32_REASONS = 256
_ESP32_HANDSHAKE = 15
_RP2_NO_ADDRESS = 2


class _Port:
    """What a port's numbers mean."""

    def __init__(self) -> None:
        try:
            network = __import__("network")
        except ImportError:  # a radio of the board's own
            network = None
        self._why = {}
        for constant, reason in _FAILURES:
            number = getattr(network, constant, None)
            self._why.setdefault(number, reason)
        self._why.pop(None, None)
        self.connecting = getattr(network, "STAT_CONNECTING", None)
        self.esp32 = hasattr(network, "STAT_ASSOC_FAIL")
        if self.esp32:
            self._why[_ESP32_HANDSHAKE] = "wrong-password"

    def failure(self, status: object) -> str:
        """Why an attempt is over, or "" while it may go on."""
        found = self._why.get(status, "")
        if not found and self.esp32 and isinstance(status, int) and 0 < status < _ESP32_REASONS:
            return "refused"
        return found


def read(folder: str) -> tuple[str, str] | None:
    """(ssid, password) of ``wifi.json``, or None without one. ConfigError says what is wrong."""
    from keyferry_agent.config import ConfigError, read_file

    data = read_file(folder + "wifi.json", MAX_FILE)
    if data is None:
        return None
    try:
        values = json.loads(data.decode())
    except ValueError:  # UnicodeError is one
        values = None
    if not isinstance(values, dict):
        raise ConfigError("wifi.json: expected a JSON object with ssid and password")
    for key in values:
        if key not in ("ssid", "password"):
            # it might be the password itself, so it stays unsaid
            raise ConfigError("wifi.json: only ssid and password are known keys")
    ssid, password = values.get("ssid"), values.get("password", "")
    if not isinstance(ssid, str) or not 0 < len(ssid.encode()) <= 32:
        raise ConfigError("wifi.json: ssid: expected 1 to 32 bytes")
    if not isinstance(password, str) or (password and not 8 <= len(password.encode()) <= 63):
        raise ConfigError(
            "wifi.json: password: expected 8 to 63 bytes, or none for an open network"
        )
    return ssid, password


class Wifi:
    """The radio of ``board``, kept on its network from ``start`` to ``stop``.

    ``joined`` is set while it is up; ``on_up`` is called each time it comes up. ConfigError when
    ``wifi.json`` in ``folder`` is wrong.
    """

    def __init__(
        self,
        board: "Board",
        folder: str,
        event: "Callable[..., None]",
        random: "Callable[[int], bytes]",
        on_up: "Callable[[], object]",
    ) -> None:
        self.joined = asyncio.Event()
        self._known = read(folder if folder.endswith("/") else folder + "/")
        self._radio: Radio | None = board.radio() if self._known else None
        self._event = event
        self._random = random
        self._on_up = on_up
        self._task: asyncio.Task | None = None
        self._port = _Port()

    async def start(self) -> None:
        """Returns when the radio is up, however long that takes; at once without one, or without
        ``wifi.json``: then somebody else sees to the network."""
        if self._radio is None:
            if self._known:
                self._event("wifi-down", reason="no-radio", status=None, retry_ms=0)
            return
        if self._task is None:
            self._task = asyncio.create_task(self._keep())
        await self.joined.wait()

    def stop(self) -> None:
        """Leave the radio as it is."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _keep(self) -> None:
        delay = BACKOFF[0]
        first = True
        while True:
            status = None
            try:
                reason, status = await self._join(first)
                if not reason:
                    delay = BACKOFF[0]
                    self._event("wifi-up", address=self._address(), rssi=self._rssi())
                    self.joined.set()
                    self._on_up()
                    while self._radio.isconnected():
                        await asyncio.sleep(LOOK_UP)
                    status = self._radio.status()
                    reason = "lost"
            except Exception as error:  # of a driver: no text of it goes on
                reason = "radio-failed"
                if error.args and isinstance(error.args[0], int):
                    status = error.args[0]
            self.joined.clear()
            first = False
            wait = jitter(delay, self._random)
            self._event("wifi-down", reason=reason, status=status, retry_ms=wait)
            delay = min(2 * delay, BACKOFF[1])
            await asyncio.sleep(wait / 1000)

    async def _join(self, first: bool) -> tuple:
        """One attempt: (why it failed or "", the port's number for it)."""
        radio = self._radio
        radio.active(True)
        if radio.isconnected():
            return "", None  # the boot code's attempt, or the driver's own
        try:
            radio.config(reconnects=0)  # ESP32 tries on for ever otherwise, and never says why
        except (ValueError, OSError, TypeError):
            pass  # other ports have no such setting
        if not first or radio.status() != self._port.connecting:  # the boot code's attempt goes on
            if not first:
                try:
                    radio.disconnect()
                except OSError:
                    pass  # it was not connected
            assert self._known is not None
            ssid, password = self._known
            if password:
                radio.connect(ssid, password)
            else:
                radio.connect(ssid)
        status = None
        for _ in range(int(JOIN_TIMEOUT / LOOK)):
            await asyncio.sleep(LOOK)
            if radio.isconnected():
                return "", None
            status = radio.status()
            reason = self._port.failure(status)
            if reason:
                return reason, status
        # ESP32 knows a signal strength only while it is associated
        heard = self._rssi() is not None if self._port.esp32 else status == _RP2_NO_ADDRESS
        return "no-address" if heard else "no-answer", status

    def _address(self) -> str:
        try:
            return self._radio.ifconfig()[0]
        except (OSError, AttributeError):
            return ""

    def _rssi(self) -> int | None:
        """dBm, or None where the radio does not say: ESP32 does so only while it is associated."""
        try:
            value = self._radio.status("rssi")
        except (OSError, ValueError, TypeError):
            return None
        return value if isinstance(value, int) and value < 0 else None
