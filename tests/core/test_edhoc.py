# heap: 1m
"""EDHOC against RFC 9529 and the traces of two independent implementations."""

import os

from keyferry_core import cbor, suite
from keyferry_core._compat import sha256
from keyferry_core.edhoc import initiator as initiator_module
from keyferry_core.edhoc import responder as responder_module
from keyferry_core.edhoc.credentials import Credential, by_kid, by_x5t, ccs, x5t
from keyferry_core.edhoc.initiator import Initiator, suites_after
from keyferry_core.edhoc.messages import (
    EdhocError,
    WrongSuite,
    decode_ead,
    decode_identifier,
    encode_identifier,
    parse_error,
)
from keyferry_core.edhoc.party import FAILED, Party, edhoc_kdf
from keyferry_core.edhoc.responder import Responder
from keyferry_core.edhoc.x5chain import MAX_CERTIFICATE, START, by_x5chain, certificates
from keyferry_core.errors import DecodeError, LocalError, StateError
from keyferry_core.iana import X5CHAIN, X5T
from keyferry_core.kdf import hkdf_expand, hkdf_extract
from support.portable import raises, vectors

crypto = suite.Crypto(os.urandom)
unhex = bytes.fromhex


def _pair(private):
    return private, crypto.public_key(private)


def _run(method, suites, i, r, ephemeral_i, ephemeral_r, c_i, c_r, eads, known=()):
    """One exchange between two of our parties; returns them and the four messages."""
    cred_i, key_i = i
    cred_r, key_r = r
    initiator = Initiator(
        crypto, cred_i, key_i, method, suites, c_i, known_eads=known, ephemeral=ephemeral_i
    )
    responder = Responder(
        crypto, cred_r, key_r, (method,), (2, 3), known_eads=known, ephemeral=ephemeral_r
    )
    message_1 = initiator.message_1(eads[0])
    assert responder.read_message_1(message_1) == list(eads[0])
    message_2 = responder.message_2(c_r, eads[1])
    assert initiator.read_message_2(message_2) == (cred_r.id_cred, list(eads[1]))
    initiator.verify_message_2(cred_r)
    message_3 = initiator.message_3(eads[2])
    assert responder.read_message_3(message_3) == (cred_i.id_cred, list(eads[2]))
    responder.verify_message_3(cred_i)
    message_4 = responder.message_4(eads[3])
    assert initiator.read_message_4(message_4) == list(eads[3])
    assert initiator.prk_out == responder.prk_out
    return initiator, responder, (message_1, message_2, message_3, message_4)


def _interop_parties(data):
    parties = []
    for who in ("i", "r"):
        private = unhex(data["priv_" + who])
        certificate = unhex(data["cert_" + who])
        parties.append((by_x5t(certificate, crypto.public_key(private)), private))
    return parties


def test_traces_of_two_implementations():
    data = vectors("edhoc_p256_interop_x509")
    assert _run_traces(data, lambda trace: _interop_parties(data)) == 6


def test_traces_with_certificates_by_value():
    data = vectors("edhoc_x5chain")

    def parties(trace):
        found = []
        for who in ("i", "r"):
            private = unhex(data["priv_" + who])
            id_cred = unhex(trace["id_cred_" + who])
            chain = certificates(id_cred)
            assert chain[0] == unhex(data["cert_" + who])
            assert chain[1:] in ([], [unhex(data["ca_cert"])])
            credential = by_x5chain(chain, crypto.public_key(private))
            assert credential.id_cred == id_cred
            found.append((credential, private))
        return found

    assert _run_traces(data, parties) == 9


def test_what_is_no_chain():
    leaf, issuer = b"leaf", b"issuer"
    big = bytes(MAX_CERTIFICATE + 1)
    for value in (
        [],
        [leaf],  # RFC 9360 has no list of one
        [leaf, issuer, issuer],
        [leaf] * 500,
        [leaf, 1],
        [[leaf], issuer],
        [leaf, None],
        {1: leaf},
        "leaf",
        7,
        None,
        True,
        b"",
        [leaf, b""],
        big,
        [leaf, big],
    ):
        raises(DecodeError, certificates, cbor.encode({X5CHAIN: value}))
    for data in (b"", START, START + b"\x44lea", START + b"\x44leaf\x00", b"\xa0", b"\x04leaf"):
        raises(DecodeError, certificates, data)
    # two labels name two credentials
    raises(DecodeError, certificates, cbor.encode({X5CHAIN: leaf, X5T: [-15, bytes(8)]}))
    # not the one encoding: a longer head than the certificate needs
    raises(DecodeError, certificates, START + b"\x59\x00\x04leaf")
    assert certificates(cbor.encode({X5CHAIN: leaf})) == [leaf]
    assert certificates(cbor.encode({X5CHAIN: [leaf, issuer]})) == [leaf, issuer]
    for chain in ((), (leaf, issuer, issuer), (big,), (leaf, b"")):
        raises(LocalError, by_x5chain, chain, bytes(65))


def _run_traces(data, parties_of):
    done = 0
    for trace in data["traces"]:
        parties = parties_of(trace)
        eads = [decode_ead(unhex(trace["ead"][n]), (100, 101, 102)) for n in "1234"]
        initiator, responder, messages = _run(
            trace["method"],
            (trace["suite"],),
            parties[0],
            parties[1],
            _pair(unhex(trace["x"])),
            _pair(unhex(trace["y"])),
            unhex(trace["c_i"]),
            unhex(trace["c_r"]),
            eads,
            (100, 101, 102),
        )
        assert [m.hex() for m in messages] == [trace["message_" + n] for n in "1234"]
        for party in (initiator, responder):
            assert party.prk_out.hex() == trace["prk_out"]
            assert party.exporter(0, b"", 16).hex() == trace["oscore_master_secret"]
            assert party.exporter(1, b"", 8).hex() == trace["oscore_master_salt"]
            assert party.exporter(40000, b"", 32).hex() == trace["exporter_40000_32"]
            party.key_update(unhex(trace["key_update_context"]))
            assert party.prk_out.hex() == trace["prk_out_updated"]
        done += 1
    return done


def test_trace_2_of_rfc_9529():
    trace = vectors("edhoc_rfc9529")["traces"]["trace_2_method3_suite2_ccs_kid"]
    first, second = trace["message_1_first_time"], trace["message_1_second_time"]
    two, three = trace["message_2"], trace["message_3"]
    key_r, key_i = unhex(two["sk_r_raw_value"]), unhex(three["sk_i_raw_value"])
    cred_r = Credential(
        unhex(two["id_cred_r_cbor_data_item"]),
        unhex(two["cred_r_cbor_data_item"]),
        crypto.public_key(key_r),
    )
    cred_i = Credential(
        unhex(three["id_cred_i_cbor_data_item"]),
        unhex(three["cred_i_cbor_data_item"]),
        crypto.public_key(key_i),
    )
    # the first message_1 selects a suite that the Responder does not have
    responder = Responder(crypto, cred_r, key_r, (3,), (2,))
    wrong = raises(WrongSuite, responder.read_message_1, unhex(first["message_1_cbor_sequence"]))
    assert wrong.message.hex() == trace["error"]["error_cbor_sequence"]
    assert responder.state == FAILED
    assert suites_after(parse_error(wrong.message), (6, 2)) == (6, 2)

    initiator, responder, messages = _run(
        3,
        (6, 2),
        (cred_i, key_i),
        (cred_r, key_r),
        _pair(unhex(second["x_raw_value"])),
        _pair(unhex(two["y_raw_value"])),
        unhex(second["c_i_raw_value"]),
        unhex(two["c_r_raw_value"]),
        ((), (), (), ()),
    )
    assert messages[0].hex() == second["message_1_cbor_sequence"]
    assert messages[1].hex() == two["message_2_cbor_sequence"]
    assert messages[2].hex() == three["message_3_cbor_sequence"]
    assert messages[3].hex() == trace["message_4"]["message_4_cbor_sequence"]
    exported, oscore = trace["prk_out_and_prk_exporter"], trace["oscore_parameters"]
    update = trace["key_update"]
    for party in (initiator, responder):
        assert party.prk_out.hex() == exported["prk_out_raw_value"]
        assert party.prk_exporter.hex() == exported["prk_exporter_raw_value"]
        assert party.exporter(0, b"", 16).hex() == oscore["oscore_master_secret_raw_value"]
        assert party.exporter(1, b"", 8).hex() == oscore["oscore_master_salt_raw_value"]
        party.key_update(unhex(update["context_for_keyupdate_raw_value"]))
        assert party.prk_out.hex() == update["prk_out_after_keyupdate_raw_value"]
        assert party.prk_exporter.hex() == update["prk_exporter_after_keyupdate_raw_value"]
        secret = party.exporter(0, b"", 16)
        assert secret.hex() == update["oscore_master_secret_after_keyupdate_raw_value"]


def test_credential_by_value_of_rfc_9529():
    trace = vectors("edhoc_rfc9529")["traces"]["trace_2_method3_suite2_ccs_kid"]["message_2"]
    public = b"\x04" + unhex(trace["responders_public_authentication_key_x_coordinate_raw_value"])
    public += unhex(trace["responders_public_authentication_key_y_coordinate_raw_value"])
    claims = ccs("example.edu", b"\x32", public)
    assert claims.hex() == trace["cred_r_cbor_data_item"]
    assert by_kid(claims, b"\x32", public).id_cred.hex() == trace["id_cred_r_cbor_data_item"]


def test_key_schedule_of_trace_1():
    # Suite 0 (X25519, EdDSA) is not ours, but its key schedule and x5t are.
    trace = vectors("edhoc_rfc9529")["traces"]["trace_1_method0_suite0_x5t"]
    two, three = trace["message_2"], trace["message_3"]
    th_2 = sha256(unhex(two["input_to_calculate_th_2_cbor_sequence"]))
    assert th_2.hex() == two["th_2_raw_value"]
    prk_2e = hkdf_extract(th_2, unhex(two["g_xy_raw_value_ecdh_shared_secret"]))
    assert prk_2e.hex() == two["prk_2e_raw_value"]
    certificate = unhex(two["cred_r_raw_value"])
    assert x5t(certificate).hex() == two["id_cred_r_cbor_data_item"]
    th_3 = sha256(unhex(three["input_to_calculate_th_3_cbor_sequence"]))
    th_4 = sha256(unhex(three["input_to_calculate_th_4_cbor_sequence"]))
    context_2 = unhex(two["context_2_cbor_sequence"])
    context_3 = unhex(three["context_3_cbor_sequence"])
    prk_out = unhex(trace["prk_out_and_prk_exporter"]["prk_out_raw_value"])
    cases = (
        (prk_2e, 0, th_2, two["keystream_2_raw_value"]),
        (prk_2e, 2, context_2, two["mac_2_raw_value"]),
        (prk_2e, 3, th_3, three["k_3_raw_value"]),
        (prk_2e, 4, th_3, three["iv_3_raw_value"]),
        (prk_2e, 6, context_3, three["mac_3_raw_value"]),
        (prk_2e, 8, th_4, trace["message_4"]["k_4_raw_value"]),
        (prk_2e, 9, th_4, trace["message_4"]["iv_4_raw_value"]),
        (prk_2e, 7, th_4, prk_out.hex()),
        (prk_out, 10, b"", trace["prk_out_and_prk_exporter"]["prk_exporter_raw_value"]),
    )
    for prk, label, context, expected in cases:
        assert edhoc_kdf(prk, label, context, len(expected) // 2).hex() == expected
    info = unhex(two["info_for_mac_2_cbor_sequence"])
    assert hkdf_expand(prk_2e, info, 32).hex() == two["mac_2_raw_value"]


def _parties():
    return _interop_parties(vectors("edhoc_p256_interop_x509"))


def _deliver_plaintext_2(plaintext_2):
    """What an Initiator says to a Responder that encrypts ``plaintext_2`` of its own making."""
    (cred_i, key_i), _ = _parties()
    initiator = Initiator(crypto, cred_i, key_i, 3, (2,), b"\x0e")
    message_1 = initiator.message_1()
    y, g_y = crypto.generate()
    forger = Party({}, crypto, cred_i, key_i, ())
    g_x = message_1[4:36]
    forger._derive_prk_2e(g_y[1:33], message_1, crypto.ecdh(y, g_x))
    message_2 = cbor.encode(g_y[1:33] + forger._crypt_2(plaintext_2))
    return raises(EdhocError, initiator.read_message_2, message_2)


def test_invalid_traces_of_rfc_9529():
    (cred_i, key_i), (cred_r, key_r) = _parties()
    counts = {}
    for case in vectors("edhoc_rfc9529")["invalid"]:
        kind, data = case["kind"], unhex(case["hex"])
        counts[kind] = counts.get(kind, 0) + 1
        if kind == "invalid_message_1":
            party = Responder(crypto, cred_r, key_r, (0, 3), (2, 3))
            party_error = raises(EdhocError, _answer, party, data)
        elif kind == "invalid_message_2":
            party = Initiator(crypto, cred_i, key_i, 3, (2,))
            party.message_1()
            party_error = raises(EdhocError, party.read_message_2, data)
        else:
            party_error = _deliver_plaintext_2(data)
            party = None
        code, _ = parse_error(party_error.message)
        assert code in (1, 2)
        assert party is None or party.state == FAILED
    assert counts == {"invalid_message_1": 11, "invalid_message_2": 1, "invalid_plaintext_2": 3}


def _answer(party, message_1):
    party.read_message_1(message_1)
    party.message_2(b"\x00")


def test_wire_sizes():
    # bytes of message_1, message_2 and message_3 (RFC 9528's comparison, with x5t and kid)
    (cred_i, key_i), (cred_r, key_r) = _parties()
    none = ((), (), (), ())
    for method, chosen, expected in (
        (0, 2, (37, 115, 90)),
        (0, 3, (37, 115, 98)),
        (3, 2, (37, 58, 33)),
        (3, 3, (37, 66, 49)),
    ):
        messages = _run(
            method, (chosen,), (cred_i, key_i), (cred_r, key_r), None, None, b"\x0e", b"\x01", none
        )[2]
        assert tuple([len(m) for m in messages[:3]]) == expected
    for length, expected in ((8, (37, 53, 28)), (1, (37, 45, 19))):
        i = by_kid(ccs("i", b"\x05" * length, cred_i.public), b"\x05" * length, cred_i.public)
        r = by_kid(ccs("r", b"\x06" * length, cred_r.public), b"\x06" * length, cred_r.public)
        messages = _run(3, (2,), (i, key_i), (r, key_r), None, None, b"\x0e", b"\x01", none)[2]
        assert tuple([len(m) for m in messages[:3]]) == expected


def test_suite_negotiation():
    (cred_i, key_i), (cred_r, key_r) = _parties()
    # the Responder has both, but the Initiator prefers one that it did not select
    message_1 = Initiator(crypto, cred_i, key_i, 0, (3, 2)).message_1()
    error = raises(WrongSuite, Responder(crypto, cred_r, key_r).read_message_1, message_1)
    assert parse_error(error.message) == (2, [3, 2])
    assert suites_after(parse_error(error.message), (3, 2)) == (3,)
    only_2 = Responder(crypto, cred_r, key_r, suites=(2,))
    message_1 = Initiator(crypto, cred_i, key_i, 0, (3,)).message_1()
    error = raises(WrongSuite, only_2.read_message_1, message_1)
    assert suites_after(parse_error(error.message), (3, 2)) == (3, 2)
    raises(EdhocError, suites_after, (2, [24, 25]), (3, 2))
    raises(DecodeError, parse_error, b"\x02")


def test_a_changed_bit_anywhere_is_refused():
    (cred_i, key_i), (cred_r, key_r) = _parties()

    def exchange(number, position):
        initiator = Initiator(crypto, cred_i, key_i)
        responder = Responder(crypto, cred_r, key_r)

        def sent(n, message):
            if n != number:
                return message
            changed = bytearray(message)
            changed[position % len(message)] ^= 1
            return bytes(changed)

        responder.read_message_1(sent(1, initiator.message_1()))
        initiator.read_message_2(sent(2, responder.message_2(b"\x01")))
        initiator.verify_message_2(cred_r)
        responder.read_message_3(sent(3, initiator.message_3()))
        responder.verify_message_3(cred_i)
        initiator.read_message_4(sent(4, responder.message_4()))

    exchange(0, 0)
    for number, positions in (
        (1, (0, 1, 5, 36)),
        (2, (0, 3, 34, 60, -1)),
        (3, (0, 2, -1)),
        (4, (0, 3)),
    ):
        for position in positions:
            raises(EdhocError, exchange, number, position)


def test_another_credential_than_the_named_one_is_refused():
    (cred_i, key_i), (cred_r, key_r) = _parties()
    initiator, responder = Initiator(crypto, cred_i, key_i), Responder(crypto, cred_r, key_r)
    responder.read_message_1(initiator.message_1())
    initiator.read_message_2(responder.message_2(b"\x01"))
    raises(EdhocError, initiator.verify_message_2, cred_i)
    assert initiator.state == FAILED
    raises(StateError, initiator.verify_message_2, cred_r)


def test_a_call_in_the_wrong_state_moves_nothing():
    (cred_i, key_i), (cred_r, key_r) = _parties()
    initiator, responder = Initiator(crypto, cred_i, key_i), Responder(crypto, cred_r, key_r)
    raises(StateError, initiator.message_3)
    raises(StateError, responder.message_4)
    raises(StateError, initiator.exporter, 0, b"", 16)
    raises(StateError, responder.key_update, b"")
    assert initiator.state == responder.state == "start"
    message_1 = initiator.message_1()
    raises(StateError, initiator.message_1)
    responder.read_message_1(message_1)
    raises(StateError, responder.read_message_1, message_1)
    initiator.read_message_2(responder.message_2(b"\x01"))
    initiator.verify_message_2(cred_r)
    responder.read_message_3(initiator.message_3())
    raises(StateError, responder.exporter, 0, b"", 16)
    responder.verify_message_3(cred_i)
    assert responder.exporter(7, b"", 16) == initiator.exporter(7, b"", 16)


def test_every_state_of_the_tables_can_be_reached_and_every_call_exists():
    for module, role in ((initiator_module, Initiator), (responder_module, Responder)):
        reached = ["start"]
        for state in reached:
            for call, following in module.TRANSITIONS[state].items():
                assert callable(getattr(role, call))
                if following not in reached:
                    reached.append(following)
        assert sorted(reached) == sorted(module.TRANSITIONS)


def test_an_error_message_ends_the_run():
    (cred_i, key_i), (cred_r, key_r) = _parties()
    initiator = Initiator(crypto, cred_i, key_i, 0, (3,))
    initiator.message_1()
    error = raises(
        WrongSuite,
        Responder(crypto, cred_r, key_r, suites=(2,)).read_message_1,
        Initiator(crypto, cred_i, key_i, 0, (3,)).message_1(),
    )
    assert initiator.read_error(error.message) == (2, 2)
    assert initiator.state == FAILED


def test_ead_padding_and_criticality():
    assert decode_ead(unhex("004100"), ()) == []
    assert decode_ead(unhex("0a410100"), ()) == [(10, b"\x01")]
    assert decode_ead(unhex("2a"), (11,)) == [(-11, None)]
    raises(EdhocError, decode_ead, unhex("2a"), ())
    raises(DecodeError, decode_ead, unhex("0101010101"), ())
    raises(DecodeError, decode_ead, unhex("4101"), ())


def test_padding_is_part_of_what_is_authenticated():
    (cred_i, key_i), (cred_r, key_r) = _parties()
    padded = [(0, b"\x00\x00\x00")]
    initiator, responder = Initiator(crypto, cred_i, key_i), Responder(crypto, cred_r, key_r)
    responder.read_message_1(initiator.message_1(padded))
    _, ead_2 = initiator.read_message_2(responder.message_2(b"\x01", padded))
    assert ead_2 == []
    initiator.verify_message_2(cred_r)
    _, ead_3 = responder.read_message_3(initiator.message_3(padded))
    assert ead_3 == []
    responder.verify_message_3(cred_i)
    assert initiator.read_message_4(responder.message_4(padded)) == []


def test_identifiers():
    for raw, wire in (
        ("00", "00"),
        ("17", "17"),
        ("18", "4118"),
        ("20", "20"),
        ("37", "37"),
        ("38", "4138"),
        ("", "40"),
        ("0011", "420011"),
    ):
        assert encode_identifier(unhex(raw)).hex() == wire
        assert decode_identifier(unhex(wire), 0) == (unhex(raw), len(wire) // 2)
    for wire in ("4100", "4137", "1818", "f6", "6100", "51" + "00" * 17, ""):
        raises(DecodeError, decode_identifier, unhex(wire), 0)


def test_a_certificate_is_no_longer_than_the_message_allows():
    (cred_i, key_i), _ = _parties()
    initiator = Initiator(crypto, cred_i, key_i)
    initiator.message_1()
    error = raises(EdhocError, initiator.read_message_2, cbor.encode(bytes(4000)))
    assert "too long" in error.detail
