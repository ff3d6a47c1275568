"""What the manager knows of the devices right now, in memory: links, registrations, sessions."""

from keyferry_manager.registry.presence import Link, Presence, Registry
from keyferry_manager.registry.sessions import Session, Sessions

__all__ = ["Link", "Presence", "Registry", "Session", "Sessions"]
