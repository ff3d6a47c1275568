"""``--kill-boards SECONDS``: virtual boards lose their power at random, about so often.

What a bench is worth shows when boards die: each test that had one ends with a named error or
passes, and the run goes on. The seed of the dice is in the header; ``--kill-seed`` repeats it.
"""

import random
import threading
from pathlib import Path

from keyferry_hil.drivers.virtual import VirtualControl
from keyferry_hil.problems import BenchProblem
from keyferry_hil.resources import Rig

_OFF_SECONDS = 0.2


class Chaos:
    """Kills while it is started. ``kills``: how many there were."""

    def __init__(self, rig: Rig, seconds: float, seed: int) -> None:
        self._controls = [
            VirtualControl(spec.name, Path(spec.port.path).parent)
            for spec in rig.boards
            if spec.virtual is not None
        ]
        self._seconds = seconds
        self.seed = seed
        self.kills = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos", daemon=True)

    def start(self) -> None:
        if self._controls:
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        dice = random.Random(self.seed)
        while not self._stop.wait(dice.expovariate(1 / self._seconds)):
            control = dice.choice(self._controls)
            try:
                control.off()
                self.kills += 1
                self._stop.wait(_OFF_SECONDS)
                control.on()
            except BenchProblem:
                pass  # unplugged by a test in this moment
