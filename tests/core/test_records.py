"""Records: OSCORE's derivation, replay, order, loss, forgery, new keys, limits."""

import os

from keyferry_core import records, suite
from keyferry_core.errors import AuthenticationError, DecodeError, LocalError, RemoteError
from keyferry_core.records import CLOSE, DATA, MAX_DATA, Records
from support.portable import raises, vectors

crypto = suite.Crypto(os.urandom)
unhex = bytes.fromhex
PRK = bytes(range(32))
CONTEXT = bytes(range(32, 64))


def _pair():
    return (
        Records(crypto, PRK, b"\x01", b"\x00", CONTEXT),
        Records(crypto, PRK, b"\x00", b"\x01", CONTEXT),
    )


def test_derivation_of_rfc_8613():
    done = 0
    for name, case in vectors("oscore_rfc8613")["vectors"].items():
        if "master_secret" not in case:
            continue
        secret = unhex(case["master_secret"])
        salt = unhex(case.get("master_salt", ""))
        id_context = unhex(case["id_context"]) if "id_context" in case else None
        common_iv = records.oscore_derive(secret, salt, b"", id_context, 10, "IV", 13)
        assert common_iv.hex() == case["common_iv"], name
        for who in ("sender", "recipient"):
            identifier = unhex(case[who + "_id"])
            key = records.oscore_derive(secret, salt, identifier, id_context, 10, "Key", 16)
            assert key.hex() == case[who + "_key"], name
            nonce = records.nonce_base(identifier, common_iv).to_bytes(13, "big")
            assert nonce.hex() == case[who + "_nonce"], name
        done += 1
    assert done == 6


def test_messages_of_rfc_8613_open_with_the_nonce_made_here():
    done = 0
    for name, case in vectors("oscore_rfc8613")["vectors"].items():
        if "ciphertext" not in case:
            continue
        number = case.get("partial_iv")
        # C.7 is a response without a Partial IV of its own: it has the request's nonce
        base = records.nonce_base(
            unhex(case["sender_id"]) if number else b"", unhex(case["common_iv"])
        )
        nonce = (base ^ int(number or "14", 16)).to_bytes(13, "big")
        assert nonce.hex() == case["nonce"], name
        key = unhex(case.get("encryption_key", case["sender_key"]))
        plaintext = crypto.open(10, key, nonce, unhex(case["aad"]), unhex(case["ciphertext"]))
        assert plaintext.hex() == case["plaintext"], name
        done += 1
    assert done == 5


def test_both_ways_at_every_size():
    a, b = _pair()
    for size in (0, 1, 15, 16, 17, 255, 256, 1024, MAX_DATA):
        data = bytes([size & 255]) * size
        record = a.protect(data)
        assert len(record) == 2 + size + 16
        assert b.unprotect(record) == (DATA, data)
        assert a.unprotect(b.protect(data)) == (DATA, data)
    assert b.unprotect(a.protect(b"", CLOSE)) == (CLOSE, b"")
    raises(LocalError, a.protect, bytes(MAX_DATA + 1))


def test_frame_grows_with_the_number_only():
    a, b = _pair()
    for number, length in ((255, 2), (256, 3), (65535, 3), (65536, 4)):
        a.sent = number
        record = a.protect(b"x")
        assert len(record) == length + 1 + 16
        assert b.unprotect(record) == (DATA, b"x")


def test_replay_order_and_loss():
    a, b = _pair()
    sent = [a.protect(bytes([n])) for n in range(100)]
    for n in (0, 2, 1, 40, 39, 90, 27):
        assert b.unprotect(sent[n]) == (DATA, bytes([n]))
    for n in (0, 1, 2, 27, 39, 40, 90):
        assert raises(DecodeError, b.unprotect, sent[n]).name == "malformed"
    # 64 behind the highest is the last that can still be told apart
    raises(DecodeError, b.unprotect, sent[26])
    assert b.unprotect(sent[28]) == (DATA, b"\x1c")
    assert b.unprotect(sent[99]) == (DATA, b"c")
    raises(DecodeError, b.unprotect, sent[28])
    assert b.forged == 0
    assert b.received == 9


def test_a_jump_past_the_window_forgets_nothing_new():
    a, b = _pair()
    first = a.protect(b"0")
    b.unprotect(first)
    a.sent = 1000
    assert b.unprotect(a.protect(b"1000"))[1] == b"1000"
    raises(DecodeError, b.unprotect, first)
    a.sent = 999
    assert b.unprotect(a.protect(b"999"))[1] == b"999"


def test_forged_records_change_nothing_and_are_counted():
    a, b = _pair()
    record = a.protect(b"hello")
    for position in range(len(record)):
        changed = bytearray(record)
        changed[position] ^= 1
        raises(RemoteError, b.unprotect, bytes(changed))
    assert b.forged > 16
    assert b.received == 0
    assert b.unprotect(record) == (DATA, b"hello")


def test_too_many_forgeries_end_the_keys():
    a, b = _pair()
    record = a.protect(b"hello")
    changed = record[:-1] + bytes([record[-1] ^ 1])
    b.forged = records.MAX_FORGED - 1
    raises(AuthenticationError, b.unprotect, changed)
    assert raises(RemoteError, b.unprotect, record).name == "limit-reached"


def test_what_is_not_a_record():
    a, b = _pair()
    record = a.protect(b"hello")
    for bad in (
        b"",
        b"\x01",
        record[: 1 + 16],
        b"\x00" + record[1:],
        b"\x06" + record[1:],
        b"\x49" + record[1:],
        b"\x81" + record[1:],
        b"\x02\x00" + record[1:],
        b"\x05" + b"\xff" * 5 + record[2:],
        b"\x05" + record[1:18],
        record + bytes(MAX_DATA + 20),
    ):
        raises(DecodeError, b.unprotect, bad)
    assert b.forged == 0


def test_new_keys_by_key_update():
    a, b = _pair()
    old = [a.protect(b"old" + bytes([n])) for n in range(4)]
    b.unprotect(old[0])
    seen = []
    for generation in range(1, 9):
        late = a.protect(b"late")
        a.update_keys()
        record = a.protect(b"new")
        assert record[0] >> 4 == generation & 3
        assert b.unprotect(record) == (DATA, b"new")
        # a record in flight under the old keys is not lost
        assert b.unprotect(late) == (DATA, b"late")
        seen.append(b._receive.key)
    assert len(set(seen)) == 8
    raises(DecodeError, b.unprotect, old[0])


def test_whole_generations_of_records_may_be_lost():
    a, b = _pair()
    b.unprotect(a.protect(b"0"))
    for lost in (1, 2, 3):
        late = a.protect(b"late")
        for _ in range(lost):
            a.update_keys()
            a.protect(b"lost")
        record = a.protect(b"found")
        # a forged one in between does not move the receiver
        raises(AuthenticationError, b.unprotect, record[:-1] + bytes([record[-1] ^ 1]))
        assert b.unprotect(record) == (DATA, b"found")
        assert b.unprotect(late) == (DATA, b"late")
        assert b._receive.generation == a._send.generation
        # with the keys before out of the way, since two bits tell four generations apart
        b.elapse(records.KEEP_SECONDS)
    # four ahead look like the present one: refused, and nothing moves
    generation = b._receive.generation
    for _ in range(4):
        a.update_keys()
    raises(AuthenticationError, b.unprotect, a.protect(b"too far"))
    assert b._receive.generation == generation


def test_keys_are_updated_by_time():
    first, second = _pair(), _pair()
    for a, b in (first, (second[1], second[0])):
        # nothing was sent under these keys: there is nothing to protect by new ones
        assert a.elapse(3 * records.UPDATE_SECONDS)
        record = a.protect(b"0")
        assert record[0] >> 4 == 0
        assert b.unprotect(record) == (DATA, b"0")
        late = a.protect(b"late")
        assert a.elapse(10)
        assert b.elapse(10)
        assert a._send.generation == 1
        record = a.protect(b"1")
        assert record[0] >> 4 == 1
        assert b.unprotect(record) == (DATA, b"1")
        assert b.unprotect(late) == (DATA, b"late")
        # each direction for itself
        assert b.protect(b"back")[0] >> 4 == 0
        for day in (2, 3, 4):
            assert a.elapse(records.UPDATE_SECONDS - 1)
            assert a._send.generation == day - 1
            assert a.elapse(1)
            assert a._send.generation == day
            assert b.unprotect(a.protect(b"day")) == (DATA, b"day")


def test_old_keys_are_dropped_after_an_hour():
    a, b = _pair()
    b.elapse(7)
    b.unprotect(a.protect(b"0"))
    late, later = a.protect(b"late"), a.protect(b"later")
    a.update_keys()
    b.unprotect(a.protect(b"1"))
    assert b.elapse(records.KEEP_SECONDS - 1)
    assert b.unprotect(late) == (DATA, b"late")
    assert b.elapse(1)
    assert b._previous is None
    raises(AuthenticationError, b.unprotect, later)


def test_the_last_day_of_the_keys():
    a, _ = _pair()
    for day in range(6):
        a.protect(b"x")
        assert a.elapse(86400)
        assert a._send.generation == day + 1
    assert a.elapse(86399)
    assert not a.elapse(1)


def test_old_keys_are_dropped_past_the_window():
    a, b = _pair()
    b.unprotect(a.protect(b"0"))
    late = a.protect(b"late")
    a.update_keys()
    for _ in range(70):
        b.unprotect(a.protect(b"n"))
    assert b._previous is None
    raises(RemoteError, b.unprotect, late)


def test_keys_are_updated_by_count():
    a, b = _pair()
    a._sent_with_keys = records.UPDATE_AFTER - 1
    assert b.unprotect(a.protect(b"last"))[1] == b"last"
    record = a.protect(b"first")
    assert record[0] >> 4 == 1
    assert b.unprotect(record)[1] == b"first"


def test_numbers_end_and_never_repeat():
    a, b = _pair()
    a.sent = records.MAX_RECORDS - 2
    assert b.unprotect(a.protect(b"last"))[1] == b"last"
    assert raises(LocalError, a.protect, b"one more").name == "limit-reached"
    # what is left is the record that says goodbye
    assert b.unprotect(a.protect(b"", CLOSE))[0] == CLOSE
    raises(LocalError, a.protect, b"", CLOSE)


def test_other_names_or_keys_do_not_open():
    a, _ = _pair()
    record = a.protect(b"hello")
    for prk, own, peer, context in (
        (bytes(32), b"\x00", b"\x01", CONTEXT),
        (PRK, b"\x00", b"\x02", CONTEXT),
        (PRK, b"\x00", b"\x01", PRK),
    ):
        raises(AuthenticationError, Records(crypto, prk, own, peer, context).unprotect, record)
    # one's own record, reflected
    raises(AuthenticationError, a.unprotect, record)
    raises(AuthenticationError, Records, crypto, PRK, b"\x01", b"\x01", CONTEXT)
