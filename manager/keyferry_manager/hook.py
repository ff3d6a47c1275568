"""The pre-provision hook: a command of the operator, or an HTTPS call, that may refuse a first
certificate.

A command gets one JSON document on standard input. Exit status 0 allows and 1 refuses; the first
line that it prints is the reason, for log and audit. A URL gets the same document by POST. Status
200 or 204 allows and 403 refuses, with the first line of the body as the reason. Whatever else
happens, no answer in time, no such command, another status, refuses as well: a check that cannot be
made is not passed.
"""

import asyncio
import contextlib
import json
import os
import signal
import ssl
from collections.abc import Mapping, Sequence

import httpx

from keyferry_manager.enrolment import Refused

_ALLOW = 0
_VETO = 1
_ALLOWED = (200, 204)
_FORBIDDEN = 403
# Bytes of its output that are looked at, and of a reason that are kept.
_OUTPUT = 4096
_REASON = 200
# Commands at one time.
_AT_ONCE = 8


class Hook:
    """Asks the command ``argv``, for at most ``seconds``. An empty one allows everything."""

    def __init__(self, argv: Sequence[str], seconds: float) -> None:
        self._argv = tuple(argv)
        self._seconds = seconds
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def ask(self, facts: Mapping[str, object]) -> None:
        """Return when the command allows it, else raise Refused."""
        if not self._argv:
            return
        try:
            async with asyncio.timeout(self._seconds), self._free:
                status, said = await self._run(json.dumps(facts).encode() + b"\n")
        except TimeoutError:
            raise _failed(f"no answer within {self._seconds:g} s") from None
        except OSError as error:
            raise _failed(f"it could not be started: {error.strerror}") from None
        if status == _VETO:
            detail = f"refused by the hook: {said}" if said else "refused by the hook"
            raise Refused("access-denied", detail, "the operator's check refused it")
        if status != _ALLOW:
            raise _failed(f"exit status {status}" + (f": {said}" if said else ""))

    async def _run(self, document: bytes) -> tuple[int, str]:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=pipe,
            stdout=pipe,
            stderr=asyncio.subprocess.DEVNULL,
            # A group of its own, so that what it starts ends with it.
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        finished = False
        try:
            # It may allow without reading what it is told.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(document)
                await process.stdin.drain()
            process.stdin.close()
            said = b""
            while data := await process.stdout.read(_OUTPUT):
                said = (said + data)[:_OUTPUT]
            status = await process.wait()
            finished = True
        finally:
            if not finished:  # what it started may live on when it is gone itself
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                # It is dead at once; waiting for it takes it out of the table of processes.
                await asyncio.shield(process.wait())
        return status, _reason(said)


class HttpsHook:
    """Asks the URL, for at most ``seconds``: a new connection for each question.

    ``ca_file`` holds the CAs that the server's certificate may stand under, in PEM; without it
    those of the system.
    """

    def __init__(self, url: str, seconds: float, ca_file: str = "") -> None:
        self._url = url
        self._seconds = seconds
        self._ca_file = ca_file
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def ask(self, facts: Mapping[str, object]) -> None:
        """Return when the answer allows it, else raise Refused."""
        try:
            async with asyncio.timeout(self._seconds), self._free:
                status, said = await self._post(json.dumps(facts).encode())
        except TimeoutError:
            raise _failed(f"no answer within {self._seconds:g} s") from None
        except (httpx.HTTPError, OSError) as error:
            raise _failed(str(error) or type(error).__name__) from None
        if status == _FORBIDDEN:
            detail = f"refused by the hook: {said}" if said else "refused by the hook"
            raise Refused("access-denied", detail, "the operator's check refused it")
        if status not in _ALLOWED:
            raise _failed(f"HTTP status {status}" + (f": {said}" if said else ""))

    async def _post(self, document: bytes) -> tuple[int, str]:
        context = await asyncio.to_thread(ssl.create_default_context, cafile=self._ca_file or None)
        # No proxy and nothing of .netrc; a redirect is an answer that is neither yes nor no.
        async with (
            httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=False) as client,
            client.stream(
                "POST",
                self._url,
                content=document,
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
            ) as response,
        ):
            said = bytearray()
            async for part in response.aiter_raw(_OUTPUT):
                said += part
                if len(said) >= _OUTPUT:
                    break
            return response.status_code, _reason(bytes(said[:_OUTPUT]))


def open_hook(command: Sequence[str], url: str, seconds: float, ca_file: str) -> Hook | HttpsHook:
    """The hook that the settings name."""
    return HttpsHook(url, seconds, ca_file) if url else Hook(command, seconds)


def _reason(said: bytes) -> str:
    """The first line, without what could upset a log."""
    line = said.decode(errors="replace").strip().partition("\n")[0]
    return "".join(char for char in line[:_REASON] if char.isprintable())


def _failed(detail: str) -> Refused:
    return Refused("internal", f"the hook failed: {detail}")
