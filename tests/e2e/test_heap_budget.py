"""The heaps of firmware-build/budget.toml suffice. ``make size`` finds out how little would."""

import asyncio
import tomllib

import pytest

from bench import heap
from bench.life import Lives
from keyferry_firmware.size import BUDGET

KIB: dict[str, int] = tomllib.loads(BUDGET.read_text())["heap"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> heap.Place:
    return heap.Place(tmp_path_factory.mktemp("heap"))


@pytest.mark.parametrize("form", ["mpy", "rom"])
def test_both_roles_of_edhoc(place: heap.Place, form: str) -> None:
    assert heap.completes_role(place, form, KIB["both-" + form], "both")


@pytest.mark.parametrize("form", ["mpy", "rom"])
def test_both_sides_of_an_introduction(place: heap.Place, form: str) -> None:
    assert heap.completes_introduction(place, form, KIB["introduction-" + form])


def test_a_heap_that_is_too_small_is_told(place: heap.Place) -> None:
    assert not heap.completes_role(place, "rom", 20, "both")


@pytest.mark.parametrize(("carrier", "line"), [("mqtt", "life-rom"), ("sip", "life-sip-rom")])
def test_the_life_of_an_agent(carrier: str, line: str) -> None:
    async def live() -> None:
        async with Lives(carrier) as lives:
            await lives.live(KIB[line])

    asyncio.run(live())
