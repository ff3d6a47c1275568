"""What each part of the manager is told by the configuration."""

from typing import cast

from keyferry_manager.carriers.mqtt import MqttSettings
from keyferry_manager.carriers.sip import SipSettings
from keyferry_manager.carriers.tls import TlsLimits
from keyferry_manager.config import Config
from keyferry_manager.relay import RelaySettings, RouteMode

# Connections to the EST listener: enrolment is short, and anybody may come.
EST_LIMITS = TlsLimits(
    connections=1000, connections_per_address=128, handshakes=128, handshakes_per_address=64
)


def links(config: Config) -> TlsLimits:
    """Connections to the listeners that carry links."""
    connections = config.max_links + config.max_handshakes
    return TlsLimits(
        connections=connections,
        # Whoever is through the handshake holds a certificate, and is bounded by that.
        connections_per_address=connections,
        handshakes=config.max_handshakes,
        handshakes_per_address=max(1, config.max_handshakes // 2),
        handshake_timeout=config.handshake_seconds,
    )


def mqtt(config: Config) -> MqttSettings:
    """Bounds of a link that speaks MQTT."""
    return MqttSettings(
        packets_per_second=config.messages_per_second, queue_messages=config.queue_messages
    )


def sip(config: Config) -> SipSettings:
    """Bounds of a link that speaks SIP."""
    return SipSettings(requests_per_second=config.messages_per_second)


def relay(config: Config) -> RelaySettings:
    """How the relay judges, and how much it holds."""
    return RelaySettings(
        route_mode=cast(RouteMode, config.route_mode),
        session_grace=float(config.session_grace),
        registration=float(config.registration_seconds),
        sessions_per_device=config.max_sessions,
        sessions_total=max(1024, 4 * config.max_links),
        max_links=config.max_links,
    )
