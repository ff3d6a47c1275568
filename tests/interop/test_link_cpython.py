"""TLS of the agent on CPython, against servers that are not its manager, with real certificates."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from keyferry_agent import link_cpython
from keyferry_agent.errors import LinkError
from keyferry_core.errors import AuthenticationError
from support.manager_kit import REALM, Credentials, Home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("link") / "home")


def roots(home: Home) -> list[bytes]:
    return [ssl.PEM_cert_to_DER_cert((home.folder / "ca" / "root.pem").read_text())]


@asynccontextmanager
async def server(home: Home, shown: Credentials) -> AsyncIterator[int]:
    """A server with a certificate that is not a manager's, and its chain."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    chain = home.folder / "chain.pem"
    chain.write_bytes(
        shown.certificate.read_bytes() + (home.folder / "ca" / "issuing.pem").read_bytes()
    )
    context.load_cert_chain(chain, shown.key)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    made = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with made:
        yield made.sockets[0].getsockname()[1]


def test_a_device_is_no_manager(home: Home) -> None:
    certificates = home.device("pump-7"), home.expired("pump-7"), home.stranger("pump-7")

    async def main() -> None:
        for shown in certificates:
            async with server(home, shown) as port:
                made = link_cpython.context(roots(home), None, None)
                with pytest.raises(AuthenticationError) as caught:
                    await link_cpython.open_link("127.0.0.1", port, REALM, made)
                assert "server certificate" in caught.value.detail

    asyncio.run(main())


def test_a_certificate_for_the_manager_from_the_systems_store_is_not_enough(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    # whom the system trusts, we need not
    monkeypatch.setenv("SSL_CERT_FILE", str(home.folder / "ca" / "root.pem"))
    other = ssl.PEM_cert_to_DER_cert(home.stranger("x").certificate.read_text())
    with home.running() as running:

        async def main() -> None:
            made = link_cpython.context([other], None, None)
            with pytest.raises(AuthenticationError):
                await link_cpython.open_link("127.0.0.1", running.port, REALM, made)
            # and a name that is another's
            made = link_cpython.context(roots(home), None, None)
            with pytest.raises(AuthenticationError, match="ostname"):
                await link_cpython.open_link("127.0.0.1", running.port, "other.example", made)

        asyncio.run(main())


def test_a_client_without_a_certificate_is_told_so(home: Home) -> None:
    with home.running() as running:

        async def main() -> None:
            made = link_cpython.context(roots(home), None, None)
            stream = await link_cpython.open_link("127.0.0.1", running.port, REALM, made)
            with pytest.raises(LinkError) as caught:  # TLS 1.3: only now
                await stream.readexactly(1)
            stream.close()
            with contextlib.suppress(LinkError):
                await stream.wait_closed()
            assert caught.value.name == "authentication-failed"

        asyncio.run(main())


@pytest.mark.parametrize("memory", [True, False])
def test_a_key_leaves_no_file(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: bool
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if not memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    shown = home.device("pump-7")
    key = shown.key.read_text()
    assert "BEGIN PRIVATE KEY" in key
    from cryptography.hazmat.primitives import serialization as coding

    loaded = coding.load_pem_private_key(key.encode(), None)
    sec1 = loaded.private_bytes(
        coding.Encoding.DER, coding.PrivateFormat.TraditionalOpenSSL, coding.NoEncryption()
    )
    seen = []
    load = ssl.SSLContext.load_cert_chain

    def watch(context: ssl.SSLContext, path: str) -> None:
        mode = os.stat(path).st_mode & 0o777
        seen.append((path, mode, list(tmp_path.rglob("*.pem"))))
        load(context, path)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watch)
    link_cpython.context(roots(home), shown.der, sec1)
    ((path, mode, files),) = seen
    if memory:
        assert path.startswith("/proc/self/fd/")
        assert files == []
    else:
        assert mode == 0o600
        assert [str(file) for file in files] == [path]
    assert list(tmp_path.iterdir()) == []
    # a key that is not the certificate's
    with pytest.raises(ValueError, match="certificate and key"):
        link_cpython.context(roots(home), home.device("valve-9").der, sec1)
    assert list(tmp_path.iterdir()) == []
