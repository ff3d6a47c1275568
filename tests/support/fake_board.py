"""The modules ``machine`` and ``network`` of a board with a radio, for interpreters without.

``install("esp32")`` or ``install("rp2")`` puts them into ``sys.modules``, with that port's numbers
(network.STAT_* as its stubs have them) and its ways, as its sources show them:

- ESP32 tries on by itself and says "connecting" meanwhile, until ``config(reconnects=0)``; then its
  status is the radio's reason. It knows a signal strength only while it is associated. ``config``
  and ``connect`` raise OSError on an interface that is not active.
- RP2 tries once; its status is negative after a failure, 2 while there is no address, and
  ``config`` raises ValueError for what it does not know.

``air`` is what is around the board: ``air.networks`` maps an SSID to its password, or None for an
open one; ``air.mood`` is "" or what goes wrong: "no-address", "silent", "associate", "broken".
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PORTS = {
    "esp32": {
        "STAT_IDLE": 1000,
        "STAT_CONNECTING": 1001,
        "STAT_GOT_IP": 1010,
        "STAT_BEACON_TIMEOUT": 200,
        "STAT_NO_AP_FOUND": 201,
        "STAT_WRONG_PASSWORD": 202,
        "STAT_ASSOC_FAIL": 203,
        "STAT_CONNECT_FAIL": 203,
        "STAT_HANDSHAKE_TIMEOUT": 204,
        "STAT_NO_AP_FOUND_W_COMPATIBLE_SECURITY": 210,
        "STAT_NO_AP_FOUND_IN_AUTHMODE_THRESHOLD": 211,
        "STAT_NO_AP_FOUND_IN_RSSI_THRESHOLD": 212,
    },
    "rp2": {
        "STAT_IDLE": 0,
        "STAT_CONNECTING": 1,
        "STAT_GOT_IP": 3,
        "STAT_CONNECT_FAIL": -1,
        "STAT_NO_AP_FOUND": -2,
        "STAT_WRONG_PASSWORD": -3,
    },
}
_ESP32_HANDSHAKE_TIMEOUT = 15  # what an ESP32 says about most wrong passwords
_ESP32_RSSI = -60
# Looks at a radio until its attempt is over.
_LOOKS = 3


class Air:
    """What is around the board, and what it did."""

    def __init__(self):
        self.networks = {}
        self.mood = ""
        self.heard = []  # (ssid, password) of each connect()
        self.slept = []  # ms of each deepsleep()
        self.lamp = []  # each value of the pin LED
        self.radio: Radio | None = None


class Radio:
    """network.WLAN as a station."""

    def __init__(self, port, air):
        self._port = port
        self._air = air
        self._on = False
        self._wanted = None  # (ssid, password)
        self._looks = 0
        self._state = "idle"  # joining, up, or a constant's name
        self._number = 0
        self._reconnects = -1
        self.deinits = 0

    def active(self, on=None):
        if on is not None:
            self._on = on
            if not on:
                self._state, self._wanted = "idle", None
        return self._on

    def config(self, *names, **values):
        if self._port == "rp2" and "reconnects" in values:
            raise ValueError("unknown config param")
        if not self._on:
            raise OSError("Wifi Not Started")
        if "reconnects" in values:
            self._reconnects = values["reconnects"]

    def connect(self, ssid, key=None):
        self._air.heard.append((ssid, key))
        if self._air.mood == "broken":
            # worse than any driver does: what it was given is in its words
            raise OSError("no way to join " + ssid + " with " + str(key))
        if not self._on:
            raise OSError("Wifi Not Started")
        if self._port == "esp32" and self._state == "joining":
            raise OSError("Wifi Internal State Error")
        self._wanted = (ssid, key)
        self._state, self._looks = "joining", 0

    def disconnect(self):
        if not self._on:
            raise OSError("Wifi Not Started")
        self._wanted, self._state = None, "idle"

    def deinit(self):
        if self._port == "esp32":
            raise AttributeError("deinit")
        self.deinits += 1
        self.active(False)

    def ifconfig(self):
        up = self._state == "up"
        return ("192.0.2.7" if up else "0.0.0.0", "255.255.255.0", "192.0.2.1", "192.0.2.1")

    def isconnected(self):
        self._look()
        return self._state == "up"

    def status(self, param=None):
        numbers = PORTS[self._port]
        if param == "rssi":
            if self._port == "esp32" and not self._associated():
                raise OSError("Wifi Not Connected")
            return _ESP32_RSSI if self._associated() else 0
        self._look()
        if self._state == "up":
            return numbers["STAT_GOT_IP"]
        if self._state == "idle":
            return numbers["STAT_IDLE"]
        if self._state == "joining":
            if self._port == "rp2" and self._associated():
                return 2
            return numbers["STAT_CONNECTING"]
        if self._port == "esp32" and self._state == "STAT_WRONG_PASSWORD":
            return _ESP32_HANDSHAKE_TIMEOUT
        return numbers[self._state]

    def _associated(self):
        if self._state == "up":
            return True
        return self._state == "joining" and self._looks >= _LOOKS and not self._verdict()

    def _verdict(self):
        """The constant's name for what is wrong, or ""."""
        assert self._wanted is not None
        ssid, key = self._wanted
        if self._air.mood == "silent":
            return "silent"
        if ssid not in self._air.networks:
            return "STAT_NO_AP_FOUND"
        if self._air.networks[ssid] != key:
            return "STAT_WRONG_PASSWORD"
        if self._air.mood == "associate":
            return "STAT_CONNECT_FAIL"
        return ""

    def _look(self):
        if self._state == "up" and self._wanted and self._verdict():
            # it lost its access point
            self._state = "STAT_BEACON_TIMEOUT" if self._port == "esp32" else "idle"
        if self._state != "joining":
            return
        self._looks += 1
        if self._looks < _LOOKS:
            return
        wrong = self._verdict()
        if not wrong:
            if self._air.mood != "no-address":
                self._state = "up"
        elif wrong != "silent" and not (self._port == "esp32" and self._reconnects < 0):
            self._state = wrong


class Pin:
    """machine.Pin, of which there is one."""

    OUT = 3
    air = Air()

    def __init__(self, name, mode):
        if name != "LED":
            raise ValueError("no such pin")

    def value(self, level):
        Pin.air.lamp.append(level)


class Namespace:
    """A module."""


def install(port, cause="PWRON_RESET", deepsleep=None):
    """The board's ``air``. ``cause``: what machine.reset_cause() answers, by its constant's name;
    ``deepsleep`` is called with what the program says to ``machine.deepsleep``."""
    air = Air()
    radio = Radio(port, air)
    network: Any = Namespace()
    machine: Any = Namespace()
    network.STA_IF = 0
    network.WLAN = lambda interface: radio
    for name, number in PORTS[port].items():
        setattr(network, name, number)
    causes = {"PWRON_RESET": 1, "WDT_RESET": 3}
    if port == "esp32":
        causes = dict(causes, HARD_RESET=2, DEEPSLEEP_RESET=4, SOFT_RESET=5)
    for name, number in causes.items():
        setattr(machine, name, number)
    machine.reset_cause = lambda: causes[cause]
    machine.deepsleep = deepsleep or air.slept.append
    Pin.air = air
    machine.Pin = Pin
    air.radio = radio
    sys.modules["network"] = network
    sys.modules["machine"] = machine
    return air


def remove():
    for name in ("network", "machine", "keyferry_board"):
        sys.modules.pop(name, None)
