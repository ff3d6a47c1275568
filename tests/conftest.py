"""What every test run has: the second run inside MicroPython, and programs that may be missing."""

pytest_plugins = [
    "support.coverage_threads",
    "support.micropython_plugin",
    "support.system_parts",
]
