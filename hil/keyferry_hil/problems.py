"""What can be wrong with a bench, under names that scripts can rely on, and how to mend it."""

# name: what to do about it. {…} are fields of the problem.
REMEDIES = {
    "rig-wrong": "correct the rig file; docs/hil.md says what may be in it",
    "not-found": "plug it in, or correct its serial_number or port in the rig file",
    "same-serial": "two boards must not share a serial number: give one a port by-path instead",
    "no-permission": "add yourself to the group that owns the port (usually dialout), and log in"
    " again",
    "port-in-use": "end the program that has the port open",
    "port-lost": "check cable and power: the port went away while it was in use",
    "no-answer": "reset the board, check that it has MicroPython and that the cable carries data",
    "garbage": "set the board's baud in the rig file to its speed",
    "boot-loop": "its program restarts it: hold it in its loader and flash it again",
    "wrong-firmware": "flash the board with MicroPython 1.29 or newer, or the build that the rig"
    " names",
    "flash-full": "the application does not fit: erase the board's file system or use an image",
    "lease-held": "wait (--lease-wait SECONDS), use other boards, or ask its holder",
    "lease-lost": "the lease ran out while this process did not answer; run it again",
    "no-board": "no board of the rig has what the test asks for: see its features",
    "no-control": "the rig names no way to do this: add power or reset to the board",
    "control-failed": "check the power switch: address, permission, port",
    "app-silent": "see the board's serial log",
    "app-ended": "see the board's serial log for the exception",
    "manager-failed": "see the manager's log",
    "quarantine-wrong": "remove or correct the entry in the quarantine list",
}


class BenchProblem(Exception):
    """Something is wrong with ``who`` (a board, a port, a file).

    ``name`` is one of REMEDIES, ``detail`` what was seen; ``remedy`` says what to do next.
    """

    def __init__(self, name: str, who: str, detail: str) -> None:
        self.name = name
        self.who = who
        self.detail = detail
        super().__init__(f"{who}: {name}: {detail}; {self.remedy}")

    @property
    def remedy(self) -> str:
        return REMEDIES[self.name]

    def __reduce__(self):
        return (type(self), (self.name, self.who, self.detail))
