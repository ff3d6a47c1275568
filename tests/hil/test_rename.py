"""Short names in images: what gets one, what keeps its own, and the way back."""

import ast
from pathlib import Path

import pytest

from keyferry_firmware import details, rename, sources
from keyferry_firmware.fold import fold
from support import core_in_image

TESTS = Path(__file__).parent.parent


def renamed(main: str = "", **texts: str) -> dict[str, str]:
    """Modules of the core with short names, beside a ``main``; as ast prints them."""
    library = {f"keyferry_core/{name}.py": text.encode() for name, text in texts.items()}
    found = rename.shorten(library | {"main.py": main.encode()}, rename.choose(library))
    return {
        path.removeprefix("keyferry_core/").removesuffix(".py"): text.decode()
        for path, text in found.items()
    }


def test_modules_share_the_names_that_they_keep_to_themselves() -> None:
    found = renamed(
        a="_COUNT = g()\ndef _first():\n    return _COUNT\ndef go():\n    return _first()\n",
        b="def _other():\n    return _other\n",
    )
    assert found["a"] == ("_c = g()\n\ndef _d():\n    return _c\n\ndef go():\n    return _d()")
    assert found["b"] == "def _c():\n    return _c"


def test_an_attribute_has_one_name_in_the_whole_image() -> None:
    found = renamed(
        a="class A:\n    def _make(self):\n        self._left = self.right\n",
        b="def f(x):\n    return x._left, x._make\n",
        main="def f(x):\n    return x._left\n",
    )
    assert found["a"] == ("class A:\n\n    def _1(_0):\n        _0._0 = _0.right")
    assert found["b"] == "def f(_0):\n    return (_0._0, _0._1)"
    assert found["main"] == "def f(x):\n    return x._0"


def test_a_name_that_is_a_variable_and_an_attribute_is_one_name() -> None:
    found = renamed(
        a="def _run():\n    pass\nclass A:\n    def _run(self):\n        _run()\n",
        b="from keyferry_core.a import _run\nfrom keyferry_core import a\na._run()\n_run()\n",
    )
    short = found["a"].removeprefix("def ").partition("(")[0]
    assert found["a"].count(short) == 3
    assert found["b"].count(short) == 3
    assert "_run" not in found["a"] + found["b"]


def test_parameters_of_the_core_are_short_unless_a_call_names_them() -> None:
    found = renamed(
        a="def f(data, *, limit=data, text='x'):\n"
        "    def g(data, inner):\n        return [limit for limit in (data, inner)]\n"
        "    return g(data, limit), lambda more: more + data\n",
        main="f(b'', limit=3)\n",
    )
    assert found["a"] == (
        "def f(_0, *, limit=data, _1='x'):\n\n"
        "    def g(_0, _2):\n        return [limit for limit in (_0, _2)]\n"
        "    return (g(_0, limit), lambda _3: _3 + _0)"
    )


def test_the_agents_public_parameters_stay() -> None:
    text = b"def f(data):\n    return data\ndef _f(data):\n    return data\n"
    library = {"keyferry_agent/a.py": text}
    found = rename.shorten(library, rename.choose(library))["keyferry_agent/a.py"].decode()
    assert found == "def f(data):\n    return data\n\ndef _c(_0):\n    return _0"


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    return 1",
        "def f(len):\n    return len",
        "a = 1\n\ndef f(a):\n\n    def g():\n        return a\n    return g",
        "def f(x):\n\n    class C:\n        x = 1\n    return C",
        "def f(x):\n    import y as x\n    return x",
        "def f(x):\n    global y\n    y = 1\n\ndef g(y):\n    return y".replace("f(x)", "f()"),
        "x = getattr(y, '_kept')\n\ndef _kept():\n    pass",
        "from q import _kept\n\ndef f():\n    return _kept",
        "import _thread\n_thread.start()",
        "x = y._not_ours",
        "def __secret():\n    pass",
    ],
)
def test_what_is_not_certain_is_left_alone(text: str) -> None:
    assert renamed(a=text)["a"] == ast.unparse(ast.parse(text))


def test_a_name_that_is_there_already_is_not_given_twice() -> None:
    library = "class A:\n    def f(self):\n        self._left = 1\n"
    assert "_left" in renamed(a=library, main="def f(x):\n    x._0 = 2\n")["a"]
    assert "_0 =" not in renamed(a=library + "        self._0 = 2\n")["a"].replace("_0._0 = 2", "")


def test_looking_for_a_variable_by_its_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"keyferry_core/a.py: globals\(\)"):
        renamed(a="x = globals()")


def test_names_do_not_depend_on_what_else_is_in_the_image() -> None:
    texts = {path: file.read_bytes() for path, file in sources.modules().items()}
    names = rename.choose(fold(texts))
    main = {"main.py": b"class Own:\n    def _aa(self):\n        self._zz = self._aa\n"}
    both = rename.shorten(fold(texts | main), names)
    alone = rename.shorten(fold(texts), names)
    assert {path: both[path] for path in alone} == alone


def test_a_traceback_says_the_sources_names() -> None:
    texts = {path: file.read_bytes() for path, file in sources.modules().items()}
    names = rename.choose(fold(texts))
    short = names.own["keyferry_core.cbor"]["_encode_text"]
    line = f'  File "keyferry_core.cbor", line 1, in {short}'
    assert rename.explain(line, names) == f"{line} (_encode_text)"
    other = f'  File "main", line 1, in {short}x'
    assert rename.explain(other, names) == other
    assert details.explain(line, {}, names) == f"{line} (_encode_text)"


@pytest.mark.parametrize("name", core_in_image.NAMES)
def test_the_core_passes_its_tests_with_short_names(tmp_path: Path, name: str) -> None:
    texts = {path: file.read_bytes() for path, file in sources.modules().items()}
    # The test is of the image: keywords that it uses stay, and privates that it asks for fit.
    own = [f"support/{file}" for file in core_in_image.SUPPORT] + [f"core/{name}.py"]
    tests = {path: (TESTS / path).read_bytes() for path in own}
    names = rename.choose(fold(texts, everything=True))
    core_in_image.write(tmp_path, rename.shorten(fold(texts, everything=True) | tests, names))
    (tmp_path / "vectors").symlink_to(TESTS / "vectors")
    core_in_image.run(name, tmp_path, tmp_path / "core")
