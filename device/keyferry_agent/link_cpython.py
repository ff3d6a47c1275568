"""TLS to the manager on CPython, by ``ssl``: what ``link`` does on MicroPython, with the same
checks and the same names for what fails. Not part of what goes onto a board.

Trusted are the realm's roots that are given, and nobody else: no store of the system's is loaded.
``ssl`` reads a private key from a file only. On Linux that is a file in memory that has no name
(memfd), so the key comes onto no disk; elsewhere one of mode 0600 in a folder of its own, which is
gone before this returns.
"""

import asyncio
import base64
import contextlib
import os
import ssl
import tempfile
from collections.abc import Iterator

from keyferry_agent import clock
from keyferry_agent.errors import LinkError
from keyferry_core.errors import AuthenticationError

# Seconds for the TCP connection, and for TLS.
CONNECT_TIMEOUT = 15
# Seconds for the other end to close its side of TLS, after which the connection is cut.
_CLOSE_TIMEOUT = 2

# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED
_DATES = (9, 10)


def context(roots: list[bytes], certificate: bytes | None, private: bytes | None) -> ssl.SSLContext:
    """A client context. All DER; ``private`` as SEC1. Without a certificate, none is shown."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # which requires a certificate and its name
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    # As Mbed TLS does it: where there are alternative names, a subject is no host name. OpenSSL
    # would take it where none of them is for DNS, as in a device's certificate.
    made.hostname_checks_common_name = False
    # What is pinned is the end of the chain, also where it is signed by something above it.
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    made.load_verify_locations(cadata=b"".join(roots))
    if certificate is not None and private is not None:
        use_identity(made, certificate, private)
    return made


def use_identity(made: ssl.SSLContext, certificate: bytes, private: bytes) -> None:
    """Have ``made`` show ``certificate`` and sign with its key, DER and SEC1. ValueError."""
    text = base64.encodebytes(private).decode()
    pem = ssl.DER_cert_to_PEM_cert(certificate)
    pem += f"-----BEGIN EC PRIVATE KEY-----\n{text}-----END EC PRIVATE KEY-----\n"
    with _file(pem.encode()) as path:
        try:
            made.load_cert_chain(path)
        except ssl.SSLError as error:
            raise ValueError("certificate and key: " + str(error)) from None


@contextlib.contextmanager
def _file(data: bytes) -> Iterator[str]:
    """A file with ``data`` for as long as this lasts, that nobody else can read."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("identity")  # closed in programs that this one starts
        try:
            os.write(handle, data)
            yield f"/proc/self/fd/{handle}"
        finally:
            os.close(handle)
    else:
        with tempfile.TemporaryDirectory(prefix="keyferry-") as folder:  # mode 0700
            path = os.path.join(folder, "identity.pem")
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(handle, "wb") as file:
                file.write(data)
            yield path


async def open_link(host: str, port: int, realm: str, made: ssl.SSLContext) -> "Stream":
    """A stream to ``host`` whose other end has proved to be ``realm``, whatever its address.

    AuthenticationError ("clock-wrong" where only the dates are wrong), LinkError, OSError,
    TimeoutError.
    """
    opening = asyncio.open_connection(
        host,
        port,
        ssl=made,
        server_hostname=realm,
        ssl_handshake_timeout=CONNECT_TIMEOUT,
        ssl_shutdown_timeout=_CLOSE_TIMEOUT,
    )
    with _named():
        return Stream(*await asyncio.wait_for(opening, 2 * CONNECT_TIMEOUT))


class Stream:
    """Reader and writer in one, as on MicroPython, with errors that ``errors.explain`` knows."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, count: int) -> bytes:
        """Up to ``count`` bytes, b"" at the end."""
        with _named():
            return await self._reader.read(count)

    async def readexactly(self, count: int) -> bytes:
        """EOFError when fewer come."""
        with _named():
            return await self._reader.readexactly(count)

    def write(self, data: bytes) -> None:
        """To be followed by ``drain``."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait until there is room for more."""
        with _named():
            await self._writer.drain()

    def close(self) -> None:
        """To be followed by ``wait_closed``."""
        self._writer.close()

    async def wait_closed(self) -> None:
        """Returns when it is closed; whoever does not wait that long cuts it off."""
        try:
            with _named():
                await self._writer.wait_closed()
        finally:
            self._writer.transport.abort()


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """TLS's errors by the names that they have on a board."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        text = "server certificate: " + error.verify_message
        if error.verify_code in _DATES:
            text += " (by our clock it is " + str(clock.rtc()) + ")"
            raise AuthenticationError(text, "clock-wrong") from None
        raise AuthenticationError(text) from None
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        raise LinkError("the manager closed the link") from None
    except ssl.SSLError as error:
        # an alert, which is how a server refuses a client's certificate, or no TLS at all
        raise LinkError("TLS: " + str(error), "authentication-failed") from None
