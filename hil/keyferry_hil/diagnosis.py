"""What is wrong with a board that does not come to its prompt, by what came over its line."""

import re

from keyferry_hil.problems import BenchProblem

# What boards say when they start: the loader of Espressif's chips, MicroPython, and its banner.
_STARTS = re.compile(
    rb"rst:0x[0-9a-f]+|MPY: soft reboot|ets [A-Z][a-z]{2} +[0-9]|picotool|Guru Medit"
)
_LOOP = 4
_SHARE = 0.25
_LEAST = 8
_SHOWN = 60


def starts(seen: bytes) -> int:
    """How often the board has started."""
    return len(_STARTS.findall(seen))


def is_garbage(seen: bytes) -> bool:
    """Whether these are not characters: as at a wrong speed."""
    if len(seen) < _LEAST:
        return False
    text = sum(32 <= byte < 127 or byte in b"\r\n\t\x04" for byte in seen)
    return text < (1 - _SHARE) * len(seen)


def diagnose(who: str, seen: bytes) -> BenchProblem:
    """The problem that ``seen``, all that came while the prompt was asked for, speaks of."""
    count = starts(seen)
    if count >= _LOOP:
        return BenchProblem("boot-loop", who, f"it started {count} times: {_last(seen)}")
    if is_garbage(seen):
        return BenchProblem("garbage", who, f"no characters came, but {seen[:16].hex(' ')}")
    if seen.strip(b"\r\n\x00"):
        return BenchProblem("no-answer", who, f"no MicroPython prompt came, but: {_last(seen)}")
    return BenchProblem("no-answer", who, "nothing came")


def _last(seen: bytes) -> str:
    text = seen.decode("ascii", "replace").strip().rsplit("\n", 1)[-1].strip()
    return repr(text[-_SHOWN:])
