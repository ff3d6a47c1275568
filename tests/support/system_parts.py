"""pytest plugin: ``@pytest.mark.needs("mosquitto_pub")`` names programs that a test runs.

Where one is missing, the test is left out and named with the reason at the end of the run; with
CI=true it stays in and fails, so nothing is left out there. ``make system`` installs them all.
"""

import glob
import os
import shutil

import pytest

_LEFT_OUT = pytest.StashKey[list[str]]()
# Debian puts servers where a user's PATH may not look.
_SERVERS = ["/usr/sbin", "/usr/local/sbin", *glob.glob("/usr/lib/postgresql/*/bin")]
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), *_SERVERS])


def find(program: str) -> str | None:
    """Where ``program`` is, or None."""
    return shutil.which(program, path=_PATH)


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def missing(item: pytest.Item) -> list[str]:
    """The programs that ``item`` needs and this machine lacks."""
    needed = [name for mark in item.iter_markers("needs") for name in mark.args]
    return [name for name in needed if find(name) is None]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*programs): system programs that the test runs")
    config.stash[_LEFT_OUT] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if in_ci():
        return
    left_out = [item for item in items if missing(item)]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
        config.stash[_LEFT_OUT] = [
            f"{item.nodeid}: needs {', '.join(missing(item))}" for item in left_out
        ]


def pytest_runtest_setup(item: pytest.Item) -> None:
    absent = missing(item)
    if absent:
        pytest.fail("not on this machine: " + ", ".join(absent) + " (make system installs them)")


def pytest_sessionfinish(session: pytest.Session) -> None:
    # A pytest-xdist worker hands its list to the process that prints the summary.
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = session.config.stash[_LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error) -> None:
    known = node.config.stash[_LEFT_OUT]
    for line in getattr(node, "workeroutput", {}).get("left_out", []):
        if line not in known:
            known.append(line)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    left_out = config.stash[_LEFT_OUT]
    if left_out:
        terminalreporter.section("left out: programs are missing, 'make system' installs them")
        for line in left_out:
            terminalreporter.line(line)
