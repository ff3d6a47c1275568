"""Runs inside MicroPython: the committed inputs of one target, with what heap there is.

    micropython -X heapsize=256k on_micropython.py TARGET [N]     every Nth input, 1: all

For each input a line has the hash of what was read in it, which has to be what CPython read. The
last line says how many inputs passed. An input that fails is printed in hex before its
traceback, and ends the run.
"""

import gc
import sys

from fuzz import inputs, targets
from fuzz.kit import digest


def main(name: str, every: int) -> None:
    target = targets.load(name)
    done = 0
    gc.collect()
    for number, data in enumerate(inputs.read_all(name)):
        if number % every:
            continue
        try:
            target.one_input(data)
        except BaseException as error:
            print(name, data.hex())
            sys.print_exception(error, sys.stdout)
            sys.exit(1)
        print(digest(target.decode(data)))
        done += 1
        gc.collect()
    print(name, done, "passed")


main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
