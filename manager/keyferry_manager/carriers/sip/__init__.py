"""SIP (RFC 3261) over mutual TLS: a registrar, and messages, on the relay that MQTT uses."""

from keyferry_manager.carriers.sip.link import SipEndpoint, SipSettings

__all__ = ["SipEndpoint", "SipSettings"]
