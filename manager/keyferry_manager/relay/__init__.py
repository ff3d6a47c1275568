"""The way of a message from one device to another."""

from keyferry_manager.relay.relay import Relay, Trace, Trail
from keyferry_manager.relay.settings import RelaySettings, RouteMode

__all__ = ["Relay", "RelaySettings", "RouteMode", "Trace", "Trail"]
