"""The same gateway on CPython, with files of an authority, and curl as the third party."""

import asyncio
import hashlib
import json
import os
from pathlib import Path

import pytest

from keyferry_agent.gateway.destination import Destination
from keyferry_agent.gateway.gateway import Gateway
from keyferry_core.suite_cryptography import CryptographyCrypto
from support.agent_kit import Hub, Party, run

pytestmark = pytest.mark.needs("curl", "openssl")
TOKEN = "a token of the test"


async def command(*line: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, problem = await process.communicate()
    assert process.returncode == 0, problem.decode()
    return output


async def make(folder: Path, name: str) -> None:
    """A self-signed certificate and its key, PEM and DER."""
    key, pem = str(folder / f"{name}.pem.key"), str(folder / f"{name}.pem")
    await command(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"),
        *("-days", "3000", "-keyout", key, "-out", pem),
    )
    for kind, source, suffix in (("x509", pem, "crt"), ("ec", key, "key")):
        target = str(folder / f"{name}.{suffix}")
        await command("openssl", kind, "-in", source, "-outform", "DER", "-out", target)


def test_tokens_certificates_answers_and_streams(tmp_path: Path) -> None:
    async def answer(path: str, asking: str) -> object:
        return {"path": path, "asking": asking}

    async def stream(path: str, asking: str, emit) -> None:
        for number in range(3):
            await emit(f"{number}\nof 3")

    async def main() -> None:
        for name in ("gateway", "bob"):
            await make(tmp_path, name)
        digest = hashlib.sha256(TOKEN.encode()).hexdigest()
        parties = {
            "alice": {"token": digest, "to": ["pump-7"]},
            "bob": {"certificate": "bob.crt", "to": ["pump-7"]},
        }
        table = {"listen": "127.0.0.1:0", "third_parties": parties}
        (tmp_path / "gateway.json").write_text(json.dumps(table))
        hub = Hub()
        third_parties = ["panel-1 for alice"]
        async with (
            Party(hub, "panel-1") as a,
            Party(hub, "pump-7", third_parties=third_parties) as b,
        ):

            def told(event: str, **fields: object) -> None:
                a.events(event, ms=0, **fields)

            serving = asyncio.create_task(serve(b))
            gateway = Gateway(str(tmp_path), told, CryptographyCrypto(os.urandom), agent=a.agent)
            port = await gateway.start()

            async def curl(path: str, *options: str) -> tuple[int, str]:
                output = await command(
                    *("curl", "-sS", "--max-time", "60", "--cacert", str(tmp_path / "gateway.pem")),
                    *("-w", "\n%{http_code}", *options, f"https://localhost:{port}{path}"),
                )
                body, _, status = output.decode().rpartition("\n")
                return int(status), body

            alice = ("-H", f"Authorization: Bearer {TOKEN}")
            assert (await curl("/v1/destinations"))[0] == 401
            status, body = await curl("/v1/pump-7/data/a/b", *alice)
            assert (status, json.loads(body)["asking"]) == (200, "panel-1 for alice")
            status, body = await curl("/v1/pump-7/events/x", *alice)
            assert body == "".join(f"data: {n}\ndata: of 3\n\n" for n in range(3))
            bob = ("--cert", str(tmp_path / "bob.pem"), "--key", str(tmp_path / "bob.pem.key"))
            status, body = await curl("/v1/destinations", *bob)
            assert json.loads(body) == {"third_party": "bob", "destinations": ["pump-7"]}
            assert (await curl("/v1/pump-7/data/x", *bob))[0] == 403, "refused by pump-7"
            status, body = await curl("/")
            assert status == 200
            assert "<title>Keyferry gateway" in body
            await gateway.stop()
            serving.cancel()

    async def serve(party: Party) -> None:
        destination = Destination(answer, stream)
        async for session in party.agent.incoming():
            destination.serve(session)

    run(main())
