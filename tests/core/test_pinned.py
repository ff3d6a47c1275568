# heap: 512k
"""Keys that are pinned: what may follow the first one, and that a manager cannot change it."""

import os

from keyferry_core import cbor, pinned, suite
from keyferry_core import signalling as s
from keyferry_core.cose_message import sign1
from keyferry_core.errors import AuthenticationError, DecodeError
from keyferry_core.session import Identity, Initiator, Responder
from keyferry_core.trust import Trust
from support.portable import raises, vectors

crypto = suite.Crypto(os.urandom)
DATA = vectors("identities")
NOW = DATA["now"]
REALM = DATA["realm"]
# Keys in a row, and the chains that lead from the first to each.
KEYS = [crypto.generate() for _ in range(4)]
NAME = "pump-7"


def succeed(before, after, chain=b"", name=NAME, realm=REALM, private=None):
    return pinned.succeed(crypto, private or before[0], before[1], realm, name, after[1], chain)


def chain_of(keys):
    chain = b""
    for i in range(1, len(keys)):
        chain = succeed(keys[i - 1], keys[i], chain)
    return chain


def judge(key=None, most=8):
    pins = {} if key is None else {NAME: key[1]}
    return pinned.Pinned(crypto, REALM, pins, most)


def refused(made, public, chain, error="key-changed"):
    before = dict(made.pins)
    kind = AuthenticationError if error != "malformed" else DecodeError
    raised = raises(kind, made.judge, NAME, public, chain, NOW)
    assert raised.name == error, raised.name
    assert made.pins == before


def test_the_first_key_may_be_pinned_and_is_the_one_from_then_on():
    made = judge()
    pin = made.judge(NAME, KEYS[0][1], None, NOW)
    assert pin == (NAME, None, KEYS[0][1])
    assert made.pins == {}  # it has not proved to have it
    assert made.pin(*pin)
    assert made.judge(NAME, KEYS[0][1], None, NOW) is None
    refused(made, KEYS[1][1], None)
    refused(made, KEYS[1][1], b"")


def test_keys_that_followed_are_followed():
    for first in range(4):
        for last in range(first, 4):
            for oldest in range(first + 1):
                made = judge(KEYS[first])
                chain = chain_of(KEYS[oldest : last + 1])
                pin = made.judge(NAME, KEYS[last][1], chain, NOW)
                if first == last:
                    assert pin is None
                else:
                    assert pin == (NAME, KEYS[first][1], KEYS[last][1])
                    assert made.pin(*pin)
                assert made.pins == {NAME: KEYS[last][1]}


def test_but_nothing_else_is():
    one, two, three, four = KEYS
    made = judge(one)
    refused(made, three[1], chain_of([two, three]))  # the first is missing
    refused(made, three[1], chain_of([one, two]))  # it ends too early
    refused(made, two[1], chain_of([one, two, three]))  # or too late
    refused(made, two[1], succeed(one, two, name="valve-2"))
    refused(made, two[1], succeed(one, two, realm="other.example"))
    refused(made, two[1], succeed(one, two, private=two[0]))  # the new key signs for itself
    refused(made, three[1], succeed(two, three, succeed(one, two, private=four[0])))
    refused(made, three[1], succeed(two, three, succeed(one, two), private=four[0]))
    # the order changed, and one twice
    items = cbor.decode(chain_of([one, two, three]))
    refused(made, three[1], cbor.encode([items[1], items[0]]))
    refused(made, two[1], cbor.encode([items[1], items[0]]))
    refused(made, three[1], cbor.encode([items[0], items[0], items[1]]))
    # signed by the right key, for something else
    for context in (b"", b"keyferry succession 1", b"keyferry owner 1"):
        refused(made, two[1], cbor.encode([sign1(crypto, one[0], two[1], context)]))
    # back to a key that was left: whoever found it on an old flash has nothing
    refused(judge(two), one[1], chain_of([one, two]))
    refused(judge(two), one[1], succeed(one, one))


def test_what_is_no_chain():
    good = chain_of(KEYS[:3])
    items = cbor.decode(good)
    short = sign1(crypto, KEYS[0][0], KEYS[1][1][:64], b"")
    none = [
        b"\x00",
        b"\x80",
        good[:-1],
        good + b"\x00",
        items[0],
        cbor.encode([items[0], 1]),
        cbor.encode([items[0]] * 9),
        cbor.encode({1: items[0]}),
    ]
    for data in none:
        raises(DecodeError, succeed, KEYS[2], KEYS[3], data)
        raises(DecodeError, pinned.without_last, data)
    for data in none + [cbor.encode([items[0], b""]), cbor.encode([short])]:
        raises(DecodeError, pinned.last_key, data)
        raises(DecodeError, judge(KEYS[0]).judge, NAME, KEYS[2][1], data, NOW)
    error = raises(DecodeError, pinned.last_key, bytes(pinned.MAX_CHAIN + 1))
    assert error.name == "too-large"
    assert pinned.last_key(good) == KEYS[2][1]


def test_a_chain_has_a_length_and_loses_its_oldest():
    keys = [crypto.generate() for _ in range(pinned.MAX_SUCCESSIONS + 2)]
    name, realm = "a" * 63, ".".join(["b" * 63, "c" * 63])
    chain = b""
    for i in range(1, len(keys)):
        chain = succeed(keys[i - 1], keys[i], chain, name, realm)
        assert pinned.last_key(chain) == keys[i][1]
    assert len(cbor.decode(chain)) == pinned.MAX_SUCCESSIONS
    assert len(chain) <= pinned.MAX_CHAIN
    made = pinned.Pinned(crypto, realm, {name: keys[1][1]}, 1)
    assert made.judge(name, keys[-1][1], chain, NOW)
    made = pinned.Pinned(crypto, realm, {name: keys[0][1]}, 1)
    error = raises(AuthenticationError, made.judge, name, keys[-1][1], chain, NOW)
    assert error.name == "key-changed"


def test_a_key_that_is_given_up_leaves_the_chain():
    assert pinned.without_last(b"") == b""
    assert pinned.without_last(chain_of(KEYS[:2])) == b""
    chain = pinned.without_last(chain_of(KEYS[:3]))
    assert pinned.last_key(chain) == KEYS[1][1]
    # and another one takes its place
    chain = succeed(KEYS[1], KEYS[3], chain)
    assert judge(KEYS[0]).judge(NAME, KEYS[3][1], chain, NOW)


def test_of_two_first_keys_at_once_one_is_pinned():
    made = judge()
    first = made.judge(NAME, KEYS[0][1], None, NOW)
    second = made.judge(NAME, KEYS[1][1], None, NOW)
    assert made.pin(*first)
    error = raises(AuthenticationError, made.pin, *second)
    assert error.name == "key-changed"
    assert not made.pin(*first)  # another session of the same device
    assert made.pins == {NAME: KEYS[0][1]}


def test_a_roll_over_counts_once():
    made = judge(KEYS[0])
    fork = made.judge(NAME, KEYS[2][1], succeed(KEYS[0], KEYS[2]), NOW)
    assert made.pin(*made.judge(NAME, KEYS[1][1], chain_of(KEYS[:2]), NOW))
    raises(AuthenticationError, made.pin, *fork)
    assert made.pins == {NAME: KEYS[1][1]}


def test_there_is_room_for_so_many():
    made = judge(KEYS[0], most=2)
    other = made.judge("valve-2", KEYS[1][1], None, NOW)
    third = made.judge("gauge-3", KEYS[2][1], None, NOW)
    assert made.pin(*other)
    assert raises(AuthenticationError, made.pin, *third).name == "too-many"
    refusal = raises(AuthenticationError, made.judge, "gauge-3", KEYS[2][1], None, NOW)
    assert refusal.name == "too-many"
    # those who are in stay in, also with their next keys
    assert made.judge("valve-2", KEYS[1][1], None, NOW) is None
    assert made.pin(*made.judge(NAME, KEYS[1][1], chain_of(KEYS[:2]), NOW))
    made.unpin("valve-2")
    assert made.pin(*made.judge("gauge-3", KEYS[2][1], None, NOW))


def test_pins_that_are_lost_let_nobody_in():
    made = pinned.Pinned(crypto, REALM, None, 8)
    for call in (made.judge, made.pin):
        arguments = (NAME, None, KEYS[0][1]) if call == made.pin else (NAME, KEYS[0][1], None, NOW)
        assert raises(AuthenticationError, call, *arguments).name == "storage-failed"
    made.unpin("")
    assert made.judge(NAME, KEYS[0][1], None, NOW)


def test_a_chain_is_verified_once():
    calls = []

    class Counting:
        def verify(self, public, message, signature):
            calls.append(1)
            return crypto.verify(public, message, signature)

    made = pinned.Pinned(Counting(), REALM, {NAME: KEYS[0][1]}, 8)
    chain = chain_of(KEYS)
    for _ in range(3):
        made.judge(NAME, KEYS[3][1], chain, NOW)
    assert len(calls) == 3
    made.pins[NAME] = KEYS[2][1]  # only what follows the pinned key is looked at
    made.judge(NAME, KEYS[3][1], chain, NOW)
    assert len(calls) == 4
    for _ in range(5):
        chain = succeed(KEYS[2], KEYS[3], succeed(crypto.generate(), KEYS[2]))
        made.judge(NAME, KEYS[3][1], chain, NOW)
    assert len(made._verified) == 4


def test_a_session_says_what_is_to_be_pinned_and_only_when_it_stands():
    def party(label, pins):
        found = [bytes.fromhex(DATA["devices"][label][key]) for key in ("private", "public")]
        certificate = bytes.fromhex(DATA["devices"][label]["certificate"])
        identity = Identity(label.split(" ")[-1], REALM, found[0], found[1], certificate)
        trust = Trust(crypto, REALM, bytes.fromhex(DATA["issuer"]))
        trust.judge = pinned.Pinned(crypto, REALM, pins, 8)
        return identity, trust, certificate, found[1]

    def relay(message, certificate):
        sent = s.check(cbor.decode(cbor.encode(message)), True)
        sent[s.CREDENTIAL] = certificate
        return s.check(sent, False)

    def introduce(a, b):
        initiator = Initiator(a[0], a[1], crypto, "pump-7")
        responder = Responder(b[0], b[1], crypto)
        accept = responder.on_connect(relay(initiator.connect(), a[2]))
        session_a = initiator.on_accept(relay(accept, b[2]), NOW)
        first = s.check(session_a.seal(b"hello"), True)
        session_b = responder.on_message(first, NOW)
        return session_a, session_b

    a, b = party("panel-1", {}), party("pump-7", {})
    session_a, session_b = introduce(a, b)
    assert session_a.pin == ("pump-7", None, b[3])
    assert session_b.pin == ("panel-1", None, a[3])
    assert a[1].judge.pins == {} and b[1].judge.pins == {}
    assert a[1].judge.pin(*session_a.pin) and b[1].judge.pin(*session_b.pin)
    assert [session.pin for session in introduce(a, b)] == [None, None]
    liar = party("second pump-7", {})
    error = raises(AuthenticationError, introduce, a, liar)
    assert error.name == "key-changed"
    liar = party("second pump-7", {"panel-1": KEYS[0][1]})
    assert raises(AuthenticationError, introduce, party("panel-1", {}), liar).name == "key-changed"
