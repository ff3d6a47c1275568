"""A clock that can be trusted, before anything depends on a certificate's dates.

No time before the floor is believed: the software's build date, or the last signed time that was
kept on flash. A clock within WINDOW after the floor is believed as it is; one that is further
ahead, or that somebody doubts, only until the manager's signed time says otherwise. The answer is
fetched without TLS, which needs the time first; it is bound to our nonce and verified up to the
root (core: signed_time.py).

An NTP server, where one is configured, is asked (ntp.py) when a clock cannot be right and there is
no signed time. Nobody signs its answer, so it is taken from the floor on, up to the day on which
the root certificate ends, and moves no floor; a signed time takes its place as soon as there is
one.

Only needed now and then: the agent forgets this module after use.
"""

import asyncio

from keyferry_agent import clock
from keyferry_agent import config as files
from keyferry_agent.errors import explain, jitter
from keyferry_agent.slots import Slots
from keyferry_core.errors import AuthenticationError, KeyferryError, LocalError, RemoteError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from keyferry_core.suite import Crypto

# Seconds between two questions while nothing else can be done: doubled, with jitter.
BACKOFF = (1, 60)
# The same for NTP, half of which is the least that RFC 4330 allows.
NTP_BACKOFF = (30, 1024)
NEVER = 1 << 40
# Seconds by which NTP may differ from a signed time that came later.
NTP_SLACK = 10
# Seconds for connecting and the answer together.
ANSWER_TIMEOUT = 15
# A clock at most so many seconds after the floor needs no confirmation.
WINDOW = 30 * 86400
# The floor is written when it has moved by so many seconds: once a day wears no flash out.
KEEP_EVERY = 86400
# The board's clock is set when it is off by more seconds.
SLACK = 2

_SECONDS = 2


class Floor(Slots):
    """The last signed time that was kept, ``seconds``; 0 when there is none."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder + "clock")

    def well_formed(self, state: dict) -> bool:
        value = state.get(_SECONDS)
        return len(state) == 2 and isinstance(value, int) and not isinstance(value, bool)

    @property
    def seconds(self) -> int:
        return self._state.get(_SECONDS, 0)

    def keep(self, seconds: int) -> None:
        """Raise the floor. StoreError."""
        if seconds - self.seconds >= KEEP_EVERY:
            self.commit({_SECONDS: seconds})


async def ensure(
    config: "files.Config",
    crypto: "Crypto",
    event: "Callable[..., None]",
    doubt: bool = False,
    opener: "Callable[..., Awaitable] | None" = None,
) -> None:
    """Return when the time can be trusted as far as that is possible; wait as long as it takes.

    ``doubt``: it is to be confirmed even if it looks right. LocalError "clock-wrong" when the clock
    is wrong and there is nothing to set it by. ``opener`` is for tests.
    """
    store = Floor(config.folder)
    floor = max(store.seconds, clock.BUILD_DATE)
    delay, ntp_delay = BACKOFF[0], NTP_BACKOFF[0]
    while True:
        shown = clock.rtc()
        if clock.signed() or clock.by_ntp() or shown < floor:
            shown = clock.now()
        plausible = shown >= floor
        if plausible and not doubt and shown - floor <= WINDOW:
            clock.trust(shown, clock.signed(), clock.by_ntp())
            return
        # What nobody signed takes the place of a clock that cannot be right, and of no other.
        with_ntp = config.ntp is not None and clock.ntp_at < NEVER
        with_ntp = with_ntp and not clock.signed() and (doubt or not plausible)
        if not config.time_port and not with_ntp:
            if not plausible:
                event("clock-not-set", now=shown, earliest=floor)
                raise LocalError("clock-wrong", "not set: certificates cannot be checked")
            _adopt(shown, clock.signed(), event, clock.by_ntp())
            return
        wait = 0
        if config.time_port:
            try:
                seconds = await _signed(config, crypto, opener)
                _check(seconds, floor)
            except Exception as failure:
                wait = 0 if plausible else jitter(delay, crypto.random)
                delay = min(2 * delay, BACKOFF[1])
                _failed(failure, shown, floor, wait, event)
            else:
                told = clock.now()
                if clock.by_ntp() and abs(told - seconds) > NTP_SLACK:
                    event("ntp-wrong", ntp=told, now=seconds)
                _adopt(seconds, True, event)
                try:
                    store.keep(seconds)
                except KeyferryError as error:
                    event("store-failed", error=error.name, detail=error.detail)
                return
        if with_ntp and clock.uptime() >= clock.ntp_at:
            ntp_wait = -(-jitter(ntp_delay, crypto.random) // 1000)
            try:
                seconds = await _by_ntp(config, crypto, floor)
                _adopt(seconds, False, event, True)
                return
            except Exception as failure:
                error = explain(failure)
                if error.name == "access-denied":
                    ntp_wait = NEVER
                elif error.name == "too-many":
                    ntp_wait = NTP_BACKOFF[1]
                ntp_delay = min(2 * ntp_delay, NTP_BACKOFF[1])
                if not config.time_port and not plausible and ntp_wait < NEVER:
                    wait = ntp_wait * 1000
                _failed(error, shown, floor, wait, event)
            finally:
                clock.ntp_at = clock.uptime() + ntp_wait
        if plausible:  # a clock that is ahead believes no one whom it should not
            _adopt(shown, clock.signed(), event, clock.by_ntp())
            return
        if not config.time_port:
            wait = max(0, clock.ntp_at - clock.uptime()) * 1000 if clock.ntp_at < NEVER else 0
        await asyncio.sleep(wait / 1000)


def _check(seconds: int, first: int, last: int | None = None) -> None:
    """AuthenticationError "clock-wrong" for a time that cannot be."""
    if seconds < first:
        raise AuthenticationError("time: %d is before %d" % (seconds, first), "clock-wrong")
    if last is not None and seconds > last:
        raise AuthenticationError("time: %d is after %d" % (seconds, last), "clock-wrong")


def _failed(
    failure: Exception, shown: int, floor: int, wait: int, event: "Callable[..., None]"
) -> None:
    error = explain(failure)
    name, detail = error.name, error.detail
    event("time-failed", error=name, detail=detail, now=shown, earliest=floor, retry_ms=wait)


def _adopt(seconds: int, signed: bool, event: "Callable[..., None]", ntp: bool = False) -> None:
    """Count from ``seconds``, and set the board's clock to it if that is off."""
    was = clock.rtc()
    news = signed or (ntp and not clock.by_ntp())
    clock.trust(seconds, signed, ntp)
    off = abs(was - seconds) > SLACK
    if off or news:
        done = clock.set_rtc(seconds) if off else False
        event("time", now=seconds, was=was, signed=signed, ntp=ntp, set=done)


async def _by_ntp(config: "files.Config", crypto: "Crypto", floor: int) -> int:
    """The NTP server's time, if it can be. Errors: see ``ntp.ask``; AuthenticationError."""
    from keyferry_agent import ntp
    from keyferry_core import x509

    assert config.ntp is not None
    host, port = config.ntp
    seconds = await ntp.ask(host, port, crypto.random, floor)
    # after the last root certificate's end there is nothing that could be verified
    _check(seconds, floor, max(x509.parse(root).not_after for root in _roots(config)))
    return seconds


def _roots(config: "files.Config") -> list:
    """While the realm's CA rolls over there are two."""
    from keyferry_agent.store import Store

    return Store(config.folder).held(files.root(config))[1]


async def _signed(
    config: "files.Config", crypto: "Crypto", opener: "Callable[..., Awaitable] | None"
) -> int:
    """The manager's time. KeyferryError, OSError, EOFError, asyncio.TimeoutError."""
    from keyferry_core import signed_time  # a clock that is right does not need it

    nonce = crypto.random(signed_time.NONCE_LENGTH)
    data = await asyncio.wait_for(
        _fetch(config, nonce, signed_time.MAX_ANSWER, opener), ANSWER_TIMEOUT
    )
    roots = _roots(config)
    for root in roots[:-1]:
        try:
            return signed_time.open_answer(crypto, root, config.realm, nonce, data)
        except AuthenticationError:
            continue
    return signed_time.open_answer(crypto, roots[-1], config.realm, nonce, data)


async def _fetch(
    config: "files.Config",
    nonce: bytes,
    limit: int,
    opener: "Callable[..., Awaitable] | None",
) -> bytes:
    from keyferry_core import est_codec

    host = config.realm + ":" + str(config.time_port)
    request = est_codec.request("GET", "/time/" + nonce.hex(), host, b"", "", "", "*/*")
    if opener is None:
        reader, writer = await asyncio.open_connection(config.host, config.time_port)
    else:
        reader, writer = await opener()
    try:
        writer.write(request)
        await writer.drain()
        response = est_codec.ResponseReader(limit)
        while not response.done:
            data = await reader.read(512)
            if data:
                response.feed(data)
            else:
                response.eof()
    finally:
        writer.close()
        try:
            await asyncio.wait_for(writer.wait_closed(), 2)
        except Exception:
            pass  # it is gone already, which is what was wanted
    if response.status != 200:
        raise RemoteError("unsupported", "time: HTTP " + str(response.status))
    return response.body
