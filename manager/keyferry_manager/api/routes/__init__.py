"""The resources of the API. Each module is one FastAPI router; each route asks one service."""

from keyferry_manager.api.routes import devices, happenings, policy, tokens

ROUTERS = (devices.router, happenings.router, policy.router, tokens.router)

__all__ = ["ROUTERS"]
