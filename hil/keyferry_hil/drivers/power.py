"""Power switches and reset lines."""

import subprocess
import time
import urllib.error
import urllib.request

from keyferry_hil.drivers.line import SerialLine
from keyferry_hil.problems import BenchProblem
from keyferry_hil.resources import HubPort, Relay

_HUB_SECONDS = 30.0
# Seconds that EN is held low; the boards' own circuits need 100 ms.
_HOLD = 0.1


class Uhubctl:
    """A port of a USB hub, by the program uhubctl."""

    def __init__(self, who: str, port: HubPort, program: str = "uhubctl") -> None:
        self._who = who
        self._port = port
        self._program = program

    def off(self) -> None:
        self._switch("off")

    def on(self) -> None:
        self._switch("on")

    def _switch(self, action: str) -> None:
        line = [self._program, "-l", self._port.hub, "-p", str(self._port.port), "-a", action]
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=_HUB_SECONDS)
        except FileNotFoundError:
            raise BenchProblem(
                "control-failed", self._who, "uhubctl is not installed (apt install uhubctl)"
            ) from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BenchProblem("control-failed", self._who, str(error)) from None
        said = (done.stdout + done.stderr).strip()
        # It also ends well where it found no such hub, and says so in words.
        if done.returncode or "No compatible" in said or "New status" not in said:
            last = said.splitlines()[-1] if said else f"status {done.returncode}"
            raise BenchProblem("control-failed", self._who, f"uhubctl: {last}")


class NetworkRelay:
    """A relay that switches when its address gets an HTTP POST. No redirects, no proxies."""

    def __init__(self, who: str, relay: Relay) -> None:
        self._who = who
        self._relay = relay
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())

    def off(self) -> None:
        self._post(self._relay.off)

    def on(self) -> None:
        self._post(self._relay.on)

    def _post(self, address: str) -> None:
        request = urllib.request.Request(address, data=b"", method="POST")
        try:
            with self._opener.open(request, timeout=self._relay.seconds) as answer:
                answer.read(1)
        except urllib.error.HTTPError as error:
            error.close()
            raise BenchProblem(
                "control-failed", self._who, f"{address} answered {error.code}"
            ) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise BenchProblem("control-failed", self._who, f"{address}: {reason}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl) -> None:
        return None


class EsptoolReset:
    """DTR and RTS as esptool uses them: RTS pulls EN low, DTR free leaves the boot mode alone."""

    def __init__(self, line: SerialLine) -> None:
        self._line = line

    def hard_reset(self) -> None:
        self._line.log.note("reset by RTS")
        self._line.lines(dtr=False, rts=True)
        time.sleep(_HOLD)
        self._line.lines(rts=False)
