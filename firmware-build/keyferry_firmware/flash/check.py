"""After flashing: the board is started, and must say at its console what was written."""

from dataclasses import dataclass

from keyferry_firmware.flash import self_test
from keyferry_firmware.flash.console import BACK, Console
from keyferry_firmware.flash.failure import Failure
from keyferry_firmware.flash.image import Image
from keyferry_firmware.flash.look import Seen, look


@dataclass(frozen=True)
class Checked:
    """What a board said of itself, its first lines after the reset, and its self-test."""

    seen: Seen
    log: list[str]
    passed: int
    failed: list[str]


def check(image: Image, port: str) -> Checked:
    """Reset the board, look, run the vectors, and reset it into its application. Failure."""
    with Console(port, wait=BACK) as console:
        console.enter()
        log = console.reset()
        console.enter()
        seen = look(console)
        if seen.image != image.digest:
            raise Failure(
                "wrong-image",
                f"the board's boot code has the image {seen.image[:16] or 'none'}"
                + (f" ({seen.refused})" if seen.refused else "")
                + f", and {image.digest[:16]} was written",
                "flash it again; the flash may be worn out",
                again=True,
            )
        passed, failed = self_test.run(console)
        console.start("import machine; machine.reset()")
    if failed:
        raise Failure(
            "self-test",
            f"{len(failed)} of {passed + len(failed)} test vectors failed: {failed[0]}",
            "do not use this board before it is known why",
        )
    return Checked(seen, log, passed, failed)
