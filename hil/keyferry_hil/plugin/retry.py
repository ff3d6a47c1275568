"""``@pytest.mark.retry(2, reason="...")``: only such a test is tried again, and it is reported."""

import pytest
from _pytest.runner import runtestprotocol

from keyferry_hil.plugin.records import record_of


class Plugin:
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            _allowed(item)

    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        left = _allowed(item)
        while True:
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            failed = [report for report in reports if report.failed]
            if not failed or not left:
                break
            left -= 1
            record_of(item).again("\n".join(str(report.longreprtext) for report in failed))
            item._initrequest()  # pyright: ignore[reportAttributeAccessIssue]
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True


def _allowed(item: pytest.Item) -> int:
    mark = item.get_closest_marker("retry")
    if mark is None:
        return 0
    times = mark.args[0] if mark.args else 0
    if not isinstance(times, int) or not 1 <= times <= 10 or not mark.kwargs.get("reason"):
        raise pytest.UsageError(f"{item.nodeid}: retry(times, reason=...): 1 to 10, and why")
    return times
