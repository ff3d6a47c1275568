"""What every test run has: the second run inside MicroPython, and programs that may be missing."""

import signal

# A shell that puts a run into the background lets it ignore Ctrl-C, and so would all the programs
# that the tests start and stop by it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "support.coverage_threads",
    "support.manager_fixtures",
    "support.micropython_plugin",
    "support.system_parts",
]
