"""Opaque mode: CONNECT (RFC 9110, section 9.3.6) to a port of a destination.

What goes through is the third party's own TLS or SSH, end to end; the gateway carries it and
reads nothing. Any client that can use an HTTPS proxy will do: ``curl --proxy https://…``.
"""

import asyncio

from keyferry_agent.gateway.destination import join
from keyferry_agent.gateway.exchange import OPEN
from keyferry_agent.gateway.gateway import SESSION_SECONDS
from keyferry_core.errors import DecodeError, RemoteError
from keyferry_core.names import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from keyferry_agent.gateway.gateway import Gateway
    from keyferry_agent.gateway.listen import Connection


async def connect(gateway: "Gateway", connection: "Connection", request: "Any") -> None:
    """Serve a CONNECT until it is over. KeyferryError before anything was answered."""
    party = gateway.authenticate(connection, request.headers.get("Proxy-Authorization", ""))
    name, _, port = request.url.rpartition(":")
    if not port.isdigit() or len(port) > 5 or not 0 < int(port) <= 65535:
        raise DecodeError("connect: NAME:PORT")
    check_name(name)
    gateway.permit(party, name, int(port))
    channel = await gateway.channel(party, name, OPEN, int(port).to_bytes(2, "big"))
    try:
        await asyncio.wait_for(channel.opened(), SESSION_SECONDS)
    except asyncio.TimeoutError:
        await channel.give_up("timeout")
        raise RemoteError("timeout") from None
    gateway.event("opaque-open", third_party=party.name, destination=name, port=int(port))
    await connection.awrite(b"HTTP/1.1 200 Connected\r\n\r\n")
    try:
        await join(channel, connection, connection)
    finally:
        await channel.give_up()
        gateway.event("opaque-closed", third_party=party.name, destination=name, port=int(port))
