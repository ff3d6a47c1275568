"""The pre-provision hook: a command of the operator that may refuse a first certificate.

It gets one JSON document on standard input. Exit status 0 allows and 1 refuses; the first line
that it prints is the reason, for log and audit. Whatever else happens, no answer in time, no such
command, another exit status, refuses as well: a check that cannot be made is not passed.
"""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping, Sequence

from keyferry_manager.enrolment import Refused

_ALLOW = 0
_VETO = 1
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
        line = said.decode(errors="replace").strip().partition("\n")[0]
        return status, line[:_REASON]


def _failed(detail: str) -> Refused:
    return Refused("internal", f"the hook failed: {detail}")
