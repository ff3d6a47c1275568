"""A CA that stands apart: it signs for managers that are registered with it, and holds the key."""

from keyferry_manager.ca.server import CaServer

__all__ = ["CaServer"]
