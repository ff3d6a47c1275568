"""Who may do what with whom: the file, its evaluation, its tests, and what a change changes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyferry_manager.policy import (
    EMPTY,
    TEMPLATE,
    WHATS,
    PolicyProblem,
    Rules,
    changes,
    digest,
    failures,
    forbidding,
    parse,
)

RULES = Rules.of([("pump-7", "valve-2"), ("loop", "loop")])

PLANT = """
[tags]
pumps = ["pump-*"]
valves = ["valve-1", "valve-2"]

[names]
gate-1 = ["valves", "hall"]
"cam.west" = ["hall"]

[[allow]]
from = "tag:pumps"
to = "tag:valves"
what = ["session", "message"]
note = "pumps open their valves"

[[allow]]
from = ["desk", "tag:hall"]
to = "*"
what = "resolve"

[[allow]]
from = "pump-7"
to = "valve-2"
"""
NAMES = ["pump-7", "pump-8", "valve-1", "valve-2", "gate-1", "cam.west", "desk", "valve-3"]


# pairs


def test_nothing_is_allowed_without_a_rule():
    decision = Rules().decide("pump-7", "valve-2")
    assert not decision.allowed
    assert decision.reason == "no rule pump-7 -> valve-2"
    assert not Rules().allows("pump-7", "valve-2")


def test_a_pair_allows_everything_in_its_direction_only():
    for what in WHATS:
        assert RULES.decide("pump-7", "valve-2", what).allowed
    assert RULES.decide("pump-7", "valve-2").reason == "rule pump-7 -> valve-2"
    back = RULES.decide("valve-2", "pump-7")
    assert not back.allowed
    assert back.reason == "only pump-7 may ask for valve-2"


def test_no_device_is_its_own_peer_whatever_the_rules_say():
    for rules in (RULES, Rules((), parse('[[allow]]\nfrom = "*"\nto = "*"'))):
        decision = rules.decide("loop", "loop")
        assert not decision.allowed
        assert decision.reason == "a device is not its own peer"


# the file


def test_the_first_rule_that_allows_it_is_the_reason():
    rules = Rules((), parse(PLANT), "policy 3")
    assert rules.decide("pump-7", "valve-2").reason == (
        "policy 3, rule 1: tag:pumps -> tag:valves (pumps open their valves)"
    )
    assert rules.decide("pump-7", "valve-2", "resolve").reason == (
        "policy 3, rule 3: pump-7 -> valve-2"
    )
    assert rules.decide("desk", "anything", "resolve").reason == (
        "policy 3, rule 2: desk, tag:hall -> *"
    )
    assert [rule.number for rule in rules.about("pump-7", "valve-2")] == [1, 3]


def test_a_refusal_says_what_there_is_instead():
    rules = Rules((), parse(PLANT))
    assert rules.decide("pump-8", "valve-1", "resolve").reason == (
        "pump-8 -> valve-1 is allowed session and message, not resolve"
    )
    assert rules.decide("valve-1", "pump-8").reason == "only pump-8 may ask for valve-1"
    assert rules.decide("valve-3", "pump-8").reason == "no rule valve-3 -> pump-8"


def test_tags_come_from_both_sides():
    rules = Rules((), parse(PLANT))
    assert rules.granted("pump-8", "gate-1") == ("session", "message")
    assert rules.granted("gate-1", "pump-8") == ("resolve",)
    assert rules.granted("cam.west", "desk") == ("resolve",)
    assert rules.granted("pump-8", "valve-3") == ()


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*", ["a", "pump-7"], []),
        ("pump-*", ["pump-7", "pump-"], ["pump", "xpump-7"]),
        ("*.hall", ["cam.hall"], ["hall", "cam.halls"]),
        ("a*a", ["aa", "aba"], ["a", "ab"]),
    ],
)
def test_patterns(pattern: str, yes: list[str], no: list[str]):
    rules = Rules((), parse(f'[[allow]]\nfrom = "asker"\nto = "{pattern}"'))
    assert all(rules.allows("asker", name) for name in yes)
    assert not any(rules.allows("asker", name) for name in no)


def test_the_template_is_a_policy_that_allows_nothing_and_its_comments_are_one_that_does():
    assert parse(TEMPLATE) == EMPTY
    lines = [line for line in TEMPLATE.splitlines()[3:] if line.startswith("#")]
    policy = parse("\n".join(line[2:] for line in lines))
    assert len(policy.rules) == 2
    assert failures(Rules((), policy), ["pump-7", "gate-1"]) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("allow =", "p.toml is not valid TOML"),
        ("x = " + "[" * 5000, "p.toml is not valid TOML"),
        ("[[alow]]", "'alow' is not known here; did you mean allow?"),
        ("[x]", "'x' is not known here; it may be names, tags, allow, assert"),
        ("allow = 3", "allow: expected tables: [[allow]]"),
        ("tags = 3", "tags: expected a table: [tags]"),
        ('[tags]\npumps = "pump-7"', "tags.pumps: expected a list of names"),
        ("[tags]\npumps = [3]", "tags.pumps: expected texts"),
        ('[tags]\npumps = ["tag:x"]', "tags.pumps: 'tag:x' is not a device's name"),
        ('[tags]\n"A b" = []', "tags.A b: 'A b' is not a tag"),
        ("[names]\ncam.west = []", "names.cam: a name with dots stands in quotes"),
        ('[names]\ncam = "hall"', "names.cam: expected a list of tags"),
        ('[names]\n"Cam" = []', "names.Cam: 'Cam' is not a device's name"),
        ('[[allow]]\nfrom = "a"', "allow 1: to is missing"),
        ('[[allow]]\nfrom = []\nto = "b"', "allow 1: from: it names nobody"),
        ('[[allow]]\nfrom = 3\nto = "b"', "allow 1: from: expected a name"),
        ('[[allow]]\nfrom = "manager"\nto = "b"', "'manager' is not a device's name"),
        ('[[allow]]\nfrom = "a**"\nto = "b"', "'a**' is not a pattern"),
        ('[[allow]]\nfrom = "A*"\nto = "b"', "'A*' is not a pattern"),
        ('[[allow]]\nfrom = "a"\nto = "tag:x"', "allow 1: to: there is no tag 'x'."),
        (
            '[tags]\npumps = []\n[[allow]]\nfrom = "tag:pump"\nto = "b"',
            "there is no tag 'pump'; did you mean tag:pumps?",
        ),
        ('[[allow]]\nfrom = "a"\nto = "b"\nwhat = "talk"', "what: expected a list of session"),
        ('[[allow]]\nfrom = "a"\nto = "b"\nwhat = [[]]', "what: expected a list of session"),
        ('[[allow]]\nfrom = "a"\nto = "b"\nwhat = []', "what: it allows nothing"),
        ('[[allow]]\nfrom = "a"\nto = "b"\nnote = "a\\nb"', "note: expected a line"),
        ('[[allow]]\nfrom = "a"\nto = "b"\nwhta = 1', "did you mean what?"),
        ('[[assert]]\nfrom = "a"\nto = "b"', "assert 1: it tests nothing"),
        (
            '[[assert]]\nfrom = "a"\nto = "b"\nallow = "session"\ndeny = "session"',
            "assert 1: 'session' cannot be both allowed and denied",
        ),
        ("# " + "x" * (1 << 20), "p.toml is larger than"),
        ('[[allow]]\nfrom = "a"\nto = "b"\n' * 2001, "allow: more than 2000"),
        (
            "[tags]\nt = [" + '"a*",' * 60000 + ']\n[[allow]]\nfrom = "tag:t"\nto = "b"\n'
            "[[allow]]\nfrom = " + str(["a*"] * 50000),
            "more than 100000 names; use patterns",
        ),
    ],
)
def test_what_a_file_cannot_say(text: str, problem: str):
    with pytest.raises(PolicyProblem) as caught:
        parse(text, "p.toml")
    assert str(caught.value).startswith("p.toml")
    assert problem in str(caught.value)


@given(st.text(max_size=300) | st.sampled_from(PLANT.splitlines(keepends=True)))
def test_any_text_is_a_policy_or_a_problem(text: str):
    for whole in (text, PLANT + text, text + PLANT):
        try:
            parse(whole)
        except PolicyProblem:
            pass


def test_a_digest_is_of_the_text():
    assert digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


# the tests inside


def _failures(text: str, pairs: tuple = (), names: list[str] = NAMES) -> list[str]:
    return failures(Rules(pairs, parse(PLANT + text), "p"), names)


def test_a_file_that_keeps_its_tests():
    assert (
        _failures(
            """
[[assert]]
from = "tag:pumps"
to = "tag:valves"
allow = ["session", "message"]

[[assert]]
from = ["tag:valves", "desk"]
to = "tag:pumps"
deny = ["session", "message"]

[[assert]]
from = "gate-1"
to = "*"
allow = "resolve"
deny = "session"
"""
        )
        == []
    )


def test_a_broken_test_names_a_pair_and_the_rule():
    (failure,) = _failures('[[assert]]\nfrom = "pump-*"\nto = "valve-*"\nallow = "session"\n')
    assert failure == (
        "assert 1: pump-* -> valve-*: pump-7 -> valve-3 is denied session "
        "(no rule pump-7 -> valve-3)"
    )
    (failure,) = _failures('[[assert]]\nfrom = "tag:pumps"\nto = "gate-1"\ndeny = "message"\n')
    assert failure == (
        "assert 1: tag:pumps -> gate-1: pump-7 -> gate-1 is allowed message "
        "(p, rule 1: tag:pumps -> tag:valves (pumps open their valves))"
    )


def test_a_test_about_nobody_is_broken():
    for selectors in ('from = "x-*"\nto = "b"', 'from = "b"\nto = "b"'):
        (failure,) = _failures(f'[[assert]]\n{selectors}\ndeny = "session"\n')
        assert "there are no two devices that this is about" in failure


def test_the_pairs_of_allow_count_in_the_tests():
    deny = '[[assert]]\nfrom = "tag:valves"\nto = "*"\ndeny = "session"\n'
    assert _failures(deny) == []
    (failure,) = _failures(deny, (("valve-2", "pump-8"),))
    assert "valve-2 -> pump-8 is allowed session (rule valve-2 -> pump-8)" in failure
    allow = '[[assert]]\nfrom = "desk"\nto = ["valve-1", "valve-3"]\nallow = "session"\n'
    assert "desk -> valve-3 is denied" in _failures(allow, (("desk", "valve-1"),))[0]
    assert _failures(allow, (("desk", "valve-1"), ("desk", "valve-3"))) == []


def test_the_test_that_forbids_a_pair():
    policy = parse(PLANT + '[[assert]]\nfrom = "tag:valves"\nto = "pump-*"\ndeny = "resolve"\n')
    found = forbidding(policy, "valve-1", "pump-99")
    assert str(found) == "assert 1: tag:valves -> pump-*"
    assert forbidding(policy, "pump-99", "valve-1") is None
    assert forbidding(policy, "desk", "pump-99") is None


# changes


def _changed(before: Rules, after: Rules) -> dict[tuple[str, str], tuple]:
    return {
        (item.initiator, item.responder): (item.gains, item.loses)
        for item in changes(before, after, NAMES)
    }


def test_what_a_change_changes():
    before = Rules([("desk", "valve-1")], parse(PLANT))
    after = Rules(
        [("desk", "valve-1")],
        parse('[[allow]]\nfrom = "pump-7"\nto = ["valve-2", "new-1"]\n'),
    )
    found = _changed(before, after)
    assert found["pump-7", "new-1"] == (("session", "message", "resolve"), ())
    assert found["pump-8", "gate-1"] == ((), ("session", "message"))
    assert found["desk", "pump-7"] == ((), ("resolve",))
    assert ("pump-7", "valve-2") not in found
    assert ("desk", "valve-1") not in found, "keyferry allow still allows it"
    assert _changed(before, before) == {}


def test_pairs_that_come_and_go():
    before, after = Rules([("a", "b"), ("c", "d")]), Rules([("c", "d"), ("e", "f")])
    assert _changed(before, after) == {
        ("a", "b"): ((), WHATS),
        ("e", "f"): (WHATS, ()),
    }


_SELECTOR = st.sampled_from(["a", "b", "ab", "a*", "*b", "*", "tag:t"])
_RULE = st.tuples(
    st.lists(_SELECTOR, min_size=1, max_size=2),
    st.lists(_SELECTOR, min_size=1, max_size=2),
    st.sets(st.sampled_from(WHATS), min_size=1),
)
_FILES = st.lists(_RULE, max_size=4)
_PAIRS = st.sets(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), max_size=2)


def _means(selector: str, name: str) -> bool:
    """The same in another way than the code."""
    if selector == "tag:t":
        return name in ("b", "c")
    head, star, tail = selector.partition("*")
    return (bool(star) and name[: len(head)] == head and name[len(name) - len(tail) :] == tail) or (
        selector == name
    )


def _written(rules: list) -> str:
    text = '[tags]\nt = ["b", "c"]\n'
    for initiators, responders, what in rules:
        text += f"[[allow]]\nfrom = {initiators}\nto = {responders}\nwhat = {sorted(what)}\n"
    return text


@given(_FILES, _PAIRS, _FILES, _PAIRS)
def test_evaluation_and_changes_are_what_the_rules_say_one_by_one(first, pairs, second, others):
    names = ["a", "b", "ab", "c", "bab"]
    before = Rules(pairs, parse(_written(first)))
    after = Rules(others, parse(_written(second)))
    expected = {}
    for left, right in itertools.product(names, names):
        granted = []
        for rules, written, by_hand in ((before, first, pairs), (after, second, others)):
            allowed = {
                what
                for what in WHATS
                if left != right
                and (
                    (left, right) in by_hand
                    or any(
                        any(_means(item, left) for item in initiators)
                        and any(_means(item, right) for item in responders)
                        and what in whats
                        for initiators, responders, whats in written
                    )
                )
            }
            for what in WHATS:
                assert rules.allows(left, right, what) == (what in allowed)
                assert rules.decide(left, right, what).allowed == (what in allowed)
            granted.append(allowed)
        if granted[0] != granted[1]:
            expected[left, right] = (granted[1] - granted[0], granted[0] - granted[1])
    found = {
        (item.initiator, item.responder): (set(item.gains), set(item.loses))
        for item in changes(before, after, names)
    }
    assert found == expected


def test_asking_for_many_names_does_not_grow_the_manager():
    rules = Rules((), parse(PLANT))
    for number in range(50_000):
        rules.allows("pump-7", f"stranger-{number}")
    assert len(rules.targets._known) <= 20_000
    assert rules.allows("pump-7", "valve-2")


# third parties


def test_a_gateway_and_those_it_acts_for_are_different_askers():
    rules = Rules(
        [("gw-1", "pump-7")],
        parse(
            """
            [tags]
            staff = ["gw-1 for alice", "gw-* for *.staff"]
            [[allow]]
            from = "gw-1"
            to = "*"
            [[allow]]
            from = "*"
            to = "pump-8"
            [[allow]]
            from = "tag:staff"
            to = "pump-7"
            what = ["session", "message"]
            [[assert]]
            from = "gw-1 for alice"
            to = "pump-7"
            allow = "session"
            deny = "resolve"
            [[assert]]
            from = "* for bob"
            to = "pump-*"
            deny = "session"
            """
        ),
    )
    assert rules.allows("gw-1", "pump-7")
    assert rules.allows("gw-1", "pump-8")
    assert rules.allows("gw-1 for alice", "pump-7")
    assert rules.allows("gw-9 for bob.staff", "pump-7")
    for asker in ("gw-1 for alice", "gw-1 for bob"):
        assert not rules.allows(asker, "pump-8"), "what a gateway may says nothing of a third party"
    assert not rules.allows("gw-1 for bob", "pump-7")
    assert not rules.allows("gw-2 for alice", "pump-7")
    assert not rules.allows("alice", "pump-7")
    assert rules.decide("gw-1 for bob", "pump-7").reason == "no rule gw-1 for bob -> pump-7"
    assert "rule 3: tag:staff -> pump-7" in rules.decide("gw-1 for alice", "pump-7").reason
    assert rules.decide("gw-1 for alice", "gw-1").reason == "a device is not its own peer"
    found = failures(rules, ["gw-1", "pump-7", "pump-8"])
    assert found == ["assert 2: * for bob -> pump-*: there are no two devices that this is about"]
    gained = changes(Rules(rules.pairs), rules, ["gw-1", "pump-7"])
    assert ("gw-1 for alice", "pump-7", ("session", "message")) in [
        (change.initiator, change.responder, change.gains) for change in gained
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[allow]]\nfrom="a"\nto="gw for alice"', "to: a third party asks, and is never asked"),
        ('[tags]\nt=["gw for x"]\n[[allow]]\nfrom="a"\nto="tag:t"', "a third party asks"),
        ('[[allow]]\nfrom="gw for "\nto="a"', "is not a device's name"),
        ('[[allow]]\nfrom="gw for a for b"\nto="a"', "is not a device's name"),
        ('[[allow]]\nfrom="gw for **"\nto="a"', "is not a pattern"),
        ('[names]\n"gw for a"=["t"]', "is not a device's name"),
    ],
)
def test_what_a_file_cannot_say_of_third_parties(text: str, problem: str):
    with pytest.raises(PolicyProblem, match=problem):
        parse(text)
