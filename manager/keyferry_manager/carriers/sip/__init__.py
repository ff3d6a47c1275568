"""SIP (RFC 3261) over mutual TLS: registrar, sessions, messages and calls, on the relay of MQTT."""

from keyferry_manager.carriers.sip.endpoint import SipEndpoint, SipSettings
from keyferry_manager.carriers.sip.link import SipLink

__all__ = ["SipEndpoint", "SipLink", "SipSettings"]
