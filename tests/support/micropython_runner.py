"""Runs inside MicroPython: imports one test file, then runs the functions whose names it reads.

Started by the pytest plugin beside it as ``micropython micropython_runner.py FOLDER MODULE``. A
line that starts with MARK is for the plugin; everything else is output of the test.
"""

import gc
import sys

MARK = "\x1e"


def attempt(call):
    """Run ``call``; print the verdict, and for a failure its traceback before it.

    The traceback goes straight to stdout: after a MemoryError there is no room to keep it.
    """
    gc.collect()
    try:
        call()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        sys.print_exception(error, sys.stdout)
        print(MARK + "failed")
        return False
    print(MARK + "passed")
    return True


def main(folder, name):
    sys.path.insert(0, folder)
    if not attempt(lambda: __import__(name)):
        return
    functions = __import__(name)
    while True:
        line = sys.stdin.readline()
        if not line:
            return
        attempt(getattr(functions, line.strip()))


main(sys.argv[1], sys.argv[2])
