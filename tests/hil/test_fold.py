"""Numbers in place of their names: what is put in, what stays, and that the core still works."""

import ast
from pathlib import Path

import pytest

from keyferry_firmware import sources
from keyferry_firmware.fold import fold
from support import core_in_image


def folded(everything: bool = False, **texts: str) -> dict[str, str]:
    """Fold modules of a package ``p`` and return their texts, as ast prints them."""
    found = fold({f"p/{name}.py": text.encode() for name, text in texts.items()}, everything)
    return {
        path.removeprefix("p/").removesuffix(".py"): text.decode() for path, text in found.items()
    }


def test_a_number_takes_the_place_of_its_name() -> None:
    found = folded(
        numbers="TYPE = 1\nSIZE = TYPE + 2 << 3\n_A, _B = range(2)\nPAIR = (_B, -SIZE)\n",
        user="from p import numbers as n\nfrom p.numbers import SIZE, PAIR\n"
        "def f(m=n.TYPE):\n    return m[n.TYPE] - -SIZE, PAIR\n",
    )
    assert found["numbers"] == "PAIR = (1, -24)"
    assert found["user"] == (
        "from p.numbers import PAIR\n\ndef f(m=1):\n    return (m[1] - -24, PAIR)"
    )


def test_public_names_stay_where_others_may_ask() -> None:
    text = "TYPE = 1\n_OWN = 2\ndef f():\n    return TYPE + _OWN\n"
    assert folded(a=text)["a"] == "def f():\n    return 1 + 2"
    assert folded(everything=True, a=text)["a"] == "TYPE = 1\n\ndef f():\n    return 1 + 2"
    agent = fold({"keyferry_agent/a.py": text.encode()})["keyferry_agent/a.py"].decode()
    assert agent == "TYPE = 1\n\ndef f():\n    return 1 + 2"


@pytest.mark.parametrize(
    "text",
    [
        "A = 1\nA = 2\ndef f():\n    return A",
        "A = 1\ndef f():\n    global A\n    A = 2",
        "A = 1\ndef f(A):\n    return A",
        "A = 1\ndef f():\n    for A in g():\n        h(A)",
        "A = 1\nclass C:\n    A = 2\nx = A",
        "A = 1\nx = [A for A in y]",
        "A = 1\nimport q as A\nx = A",
        "A = 1\ntry:\n    f()\nexcept E as A:\n    g(A)",
        "A = 1\nimport p.a as me\nme.A = 3\nx = A",
        "A = 1 << 30\nx = A",
        "A = 'text'\nx = A",
        "A = True\nx = A",
        "A = g()\nx = A",
        "if g():\n    A = 1\nx = A",
    ],
)
def test_what_is_not_certain_is_left_alone(text: str) -> None:
    assert folded(a=text)["a"] == ast.unparse(ast.parse(text))


def test_a_name_that_is_asked_for_otherwise_stays() -> None:
    for user in (
        "def f(module):\n    return module.A",
        "def f(module):\n    return getattr(module, 'A')",
        "import p.a as alias\nimport q as alias\nx = alias.A",
    ):
        assert folded(a="A = 1", user=user)["a"] == "A = 1"
    # an alias that two modules share may mean either of them
    found = folded(
        a="A = 1",
        b="A = 2",
        user="def f():\n    from p import a as m\n    from p import b as m\n    return m.A",
    )
    assert "m.A" in found["user"]
    assert found["a"] == "A = 1"


def test_branches_that_a_device_never_enters_go() -> None:
    text = (
        "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    import t\n"
        "from p.c import CPYTHON\n"
        "if CPYTHON:\n    def f(): pass\nelse:\n    def f(): return 1\n"
        "if not CPYTHON:\n    g()\n"
    )
    assert folded(a=text, c="CPYTHON = g()")["a"] == "def f():\n    return 1\ng()"


@pytest.mark.parametrize("name", core_in_image.NAMES)
def test_the_core_passes_its_tests_when_folded(tmp_path: Path, name: str) -> None:
    texts = {path: file.read_bytes() for path, file in sources.modules().items()}
    core_in_image.write(tmp_path, fold(texts, everything=True))
    core_in_image.run(name, tmp_path)
