# The start of a virtual board, before its REPL: mounts its flash at / and its image at /rom, puts
# machine in place, then runs boot.py and main.py. It runs inside MicroPython; the master process
# (virtual_board/master.py) says the rest in the environment.

import gc
import os
import sys

import flash
import rom
import vfs

_MARK = "\x1b_kf:" + os.getenv("KEYFERRY_NONCE", "") + ":"


def tell(what: str) -> None:
    """A word to the master, in the console's own stream, from which it is taken out."""
    sys.stdout.write(_MARK + what + "\x1b\\")


def halt() -> None:
    """Wait for the end that was asked for."""
    import time

    while True:
        try:
            time.sleep(1)
        except KeyboardInterrupt:
            pass


class CutFlash(flash.Flash):
    """Flash whose supply fails in the middle of write number ``cut``."""

    def __init__(self, path: str, cut: int) -> None:
        super().__init__(path)
        self._left = cut

    def writeblocks(self, block: int, data: bytes, offset: int = 0) -> None:
        self._left -= 1
        if self._left == 0:
            super().writeblocks(block, bytes(data)[: len(data) // 2], offset)
            tell("cut")
            halt()
        super().writeblocks(block, data, offset)


class Watchdog:
    def __init__(self, id: int = 0, timeout: int = 5000) -> None:
        self._timeout = str(timeout)
        self.feed()

    def feed(self) -> None:
        tell("watchdog " + self._timeout)


class Clock:
    """The real-time clock: it may go wrong, and survives every reset but no power cut."""

    def datetime(self, moment: tuple | None = None) -> tuple:
        import time

        if moment is not None:
            year, month, day, _, hour, minute, second, _ = moment
            wanted = time.mktime((year, month, day, hour, minute, second, 0, 0, 0))
            offset = int(wanted - time.time()) + int(os.getenv("KEYFERRY_CLOCK", "0"))
            os.putenv("KEYFERRY_CLOCK", str(offset))
            tell("clock " + str(offset))
            set_clock(offset)
        now = sys.modules.get("time", time).gmtime()
        year, month, day, hour, minute, second, weekday, _ = now[:8]
        return year, month, day, weekday, hour, minute, second, 0


class Machine:
    """What a board's ``machine`` has and the Unix port's lacks; the rest is the port's."""

    PWRON_RESET, HARD_RESET, WDT_RESET, DEEPSLEEP_RESET, SOFT_RESET = range(1, 6)
    WDT = Watchdog
    RTC = Clock

    def __init__(self, own: object) -> None:
        self._own = own

    def __getattr__(self, name: str) -> object:
        return getattr(self._own, name)

    def reset(self) -> None:
        tell("reset")
        halt()

    def unique_id(self) -> bytes:
        return bytes.fromhex(os.getenv("KEYFERRY_UNIQUE_ID", ""))

    def reset_cause(self) -> int:
        return int(os.getenv("KEYFERRY_CAUSE", "1"))

    def freq(self) -> int:
        return 240000000


class Time:
    """``time`` on a board whose clock is off by some seconds."""

    def __init__(self, own, offset: int) -> None:
        self._own = own
        self._offset = offset

    def __getattr__(self, name: str) -> object:
        return getattr(self._own, name)

    def time(self) -> int:
        return int(self._own.time()) + self._offset

    def gmtime(self, seconds: int | None = None) -> tuple:
        return self._own.gmtime(self.time() if seconds is None else seconds)

    localtime = gmtime


def set_clock(offset: int) -> None:
    sys.modules.pop("time", None)
    if offset:
        import time

        sys.modules["time"] = Time(time, offset)  # pyright: ignore[reportArgumentType]


def run_file(path: str) -> None:
    """Run it as a board does: an exception is shown, and the board goes on to its REPL."""
    if path not in os.listdir("/"):
        return
    try:
        with open("/" + path) as file:
            source = file.read()
        exec(source, {"__name__": "__main__"})
    except SystemExit:
        raise
    except BaseException as error:
        sys.print_exception(error)
    gc.collect()


def start() -> None:
    import machine

    sys.modules["machine"] = Machine(machine)  # pyright: ignore[reportArgumentType]
    set_clock(int(os.getenv("KEYFERRY_CLOCK", "0")))
    place = os.getenv("KEYFERRY_FLASH", "")
    cut = int(os.getenv("KEYFERRY_CUT", "0"))
    image = os.getenv("KEYFERRY_ROM", "")
    image = rom.mapped(image) if image else ""
    try:
        application = rom.application(image) if image else None
    except OSError:
        application = None  # a sealed image, which boot.py checks and mounts
    flash.mount(CutFlash(place, cut) if cut else flash.Flash(place))
    sys.path[:] = ["", ".frozen", "/lib"]
    if image:
        os.putenv("KEYFERRY_ROM", image)
    if application is not None:
        vfs.mount(application, "/rom")
        sys.path.append("/rom")
    for name in ("flash", "rom"):
        del sys.modules[name]
    gc.collect()
    tell("boot")
    run_file("boot.py")
    if not os.getenv("KEYFERRY_RAW"):
        run_file("main.py")
    tell("repl")


start()
