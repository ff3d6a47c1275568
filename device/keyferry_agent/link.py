"""TLS to the manager on MicroPython: mutual, and verified against the realm's root alone (while it
rolls over: its roots)."""

import asyncio
import gc

import tls

# Seconds for the TCP connection.
CONNECT_TIMEOUT = 15

_IPPROTO_TCP = 6
_TCP_NODELAY = 1


def context(
    roots: list[bytes], certificate: bytes | None, private: bytes | None
) -> "tls.SSLContext":
    """A client context. All DER; ``private`` as SEC1. Without a certificate, none is shown."""
    gc.collect()  # it takes 3 KiB in one piece
    made = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    made.verify_mode = tls.CERT_REQUIRED  # pyright: ignore[reportAttributeAccessIssue]
    for root in roots:  # each call adds one
        made.load_verify_locations(root)
    if certificate is not None:
        made.load_cert_chain(certificate, private)
    return made


async def open_link(
    host: str, port: int, realm: str, made: "tls.SSLContext"
) -> "asyncio.StreamReader":
    """A stream to ``host`` whose other end must prove to be ``realm``, whatever its address.

    The handshake runs with the first write: its errors come from ``drain``; see ``errors.explain``.
    """
    reader, _ = await asyncio.wait_for(asyncio.open_connection(host, port), CONNECT_TIMEOUT)
    # The stubs know neither this attribute nor, above, the other one; both ports have them.
    plain = reader.s  # pyright: ignore[reportAttributeAccessIssue]
    gc.collect()
    try:
        # Without it each small write waits for the other end's delayed acknowledgement.
        plain.setsockopt(_IPPROTO_TCP, _TCP_NODELAY, 1)
        secure = made.wrap_socket(plain, server_hostname=realm, do_handshake_on_connect=False)
    except BaseException:
        plain.close()
        raise
    return asyncio.StreamReader(secure)
