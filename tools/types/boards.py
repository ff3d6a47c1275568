"""Held against the stubs of each port with a radio, and never run: that ``network.WLAN`` has what
``keyferry_agent.wifi`` asks of a radio, and ``machine`` what ``keyferry_agent.board`` calls."""

import machine
import network

from keyferry_agent.radio import Radio

radio: Radio = network.WLAN(network.STA_IF)
connecting: int = network.STAT_CONNECTING
failures: tuple[int, ...] = (
    network.STAT_WRONG_PASSWORD,
    network.STAT_NO_AP_FOUND,
    network.STAT_CONNECT_FAIL,
)
lamp = machine.Pin("LED", machine.Pin.OUT)
lamp.value(1)
woke: bool = machine.reset_cause() in (machine.PWRON_RESET, machine.WDT_RESET)
clock = machine.RTC()
clock.datetime((2026, 11, 26, 3, 0, 0, 0, 0))
machine.deepsleep(1000)
