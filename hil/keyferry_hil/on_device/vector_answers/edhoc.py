"""Questions about EDHOC (RFC 9528): whole runs, and what must be refused.

A trace comes as a dict, ``given``, which ``schedule`` describes.
"""

import os

from keyferry_core import cbor, suite
from keyferry_core.edhoc.credentials import Credential, by_kid, ccs
from keyferry_core.edhoc.initiator import Initiator
from keyferry_core.edhoc.messages import WrongSuite, encode_identifier, encode_message_1
from keyferry_core.edhoc.party import edhoc_kdf, xor
from keyferry_core.edhoc.responder import Responder
from keyferry_core.iana import AES_CCM_16_64_128

crypto = suite.Crypto(os.urandom)


def do_edhoc_message_1(method: int, suites, private, g_x, c_i: bytes, ead_1: bytes):
    """message_1 and its parts by name; ``g_x`` is given for a curve that is not ours."""
    if private is not None:
        g_x = crypto.public_key(private)[1:33]
    suites = suites if isinstance(suites, list) else [suites]
    return {
        "g_x_raw_value": g_x,
        "g_x_cbor_data_item": cbor.encode(g_x),
        "c_i_cbor_data_item": encode_identifier(c_i),
        "message_1_cbor_sequence": encode_message_1(method, suites, g_x, c_i, ead_1),
    }


def do_edhoc_wrong_suite(message_1: bytes, suites_r: list) -> bytes:
    """The error message of a Responder that has only ``suites_r``."""
    private, public = crypto.generate()
    own = by_kid(ccs("r", b"\x06", public), b"\x06", public)
    try:
        Responder(crypto, own, private, (0, 3), tuple(suites_r)).read_message_1(message_1)
    except WrongSuite as error:
        return error.message
    return b""


def _ead(data: bytes) -> list:
    """The items of an EAD sequence, padding included."""
    items = []
    position = 0
    while position < len(data):
        label, position = cbor.decode_item(data, position)
        value = None
        if position < len(data) and data[position] >> 5 == 2:
            value, position = cbor.decode_item(data, position)
        items.append((label, value))
    return items


def do_edhoc_run(given: dict, exports: list) -> dict:
    """Both roles against each other, on fixed ephemeral keys: messages and keys by their names.

    A key is a list of what the Initiator and the Responder have. ``exports``: for ``exporter``,
    ``[label, context, length]`` each; they are made before and after the key update.
    """
    credentials = []
    for who in ("i", "r"):
        public = crypto.public_key(given["sk_" + who])
        credentials.append(Credential(given["id_cred_" + who], given["cred_" + who], public))
    cred_i, cred_r = credentials
    eads = [_ead(given["ead_" + n]) for n in ("1", "2", "3", "4")]
    known = tuple([abs(item[0]) for items in eads for item in items])
    expected = [[item for item in items if item[0]] for items in eads]  # without padding
    suites = cbor.decode(given["suites"])
    suites = tuple(suites) if isinstance(suites, list) else (suites,)
    x, y = given["x"], given["y"]
    initiator = Initiator(
        *(crypto, cred_i, given["sk_i"], given["method"], suites, given["c_i"], known),
        ephemeral=(x, crypto.public_key(x)),
    )
    responder = Responder(
        *(crypto, cred_r, given["sk_r"], (given["method"],), (suites[-1],), known),
        ephemeral=(y, crypto.public_key(y)),
    )
    found = {}
    found["message_1"] = initiator.message_1(eads[0])
    read = [responder.read_message_1(found["message_1"])]
    found["message_2"] = responder.message_2(given["c_r"], eads[1])
    id_cred, ead = initiator.read_message_2(found["message_2"])
    found["id_cred_r"] = id_cred
    read.append(ead)
    initiator.verify_message_2(cred_r)
    found["message_3"] = initiator.message_3(eads[2])
    id_cred, ead = responder.read_message_3(found["message_3"])
    found["id_cred_i"] = id_cred
    read.append(ead)
    responder.verify_message_3(cred_i)
    found["message_4"] = responder.message_4(eads[3])
    read.append(initiator.read_message_4(found["message_4"]))
    found["ead"] = read == expected
    parties = (initiator, responder)
    for ending in ("", "_after_keyupdate"):
        if ending:
            if "context" not in given:
                break
            for party in parties:
                party.key_update(given["context"])
        found["prk_out" + ending] = [party.prk_out for party in parties]
        found["prk_exporter" + ending] = [party.prk_exporter for party in parties]
        found["exports" + ending] = [
            [party.exporter(label, context, length) for party in parties]
            for label, context, length in exports
        ]
    return found


def do_edhoc_refuse(kind: str, data: bytes) -> str:
    """Give ``data`` to the party that it is meant for, in a run that is sound up to there.

    ``kind``: message_1 to message_4, or plaintext_2 to plaintext_4, which a peer with good keys
    would have encrypted. Method 3, suite 2. Returns only when the party takes it.
    """
    x, y, i, r = [crypto.generate() for _ in range(4)]
    cred_i = by_kid(ccs("i", b"\x2b", i[1]), b"\x2b", i[1])
    cred_r = by_kid(ccs("r", b"\x32", r[1]), b"\x32", r[1])
    initiator = Initiator(crypto, cred_i, i[0], 3, (2,), b"\x0e", ephemeral=x)
    responder = Responder(crypto, cred_r, r[0], (0, 3), (2, 3), ephemeral=y)
    if kind == "message_1":
        responder.read_message_1(data)
        responder.message_2(b"\x27")
        return "accepted"
    message_1 = initiator.message_1()
    if kind.startswith("plaintext"):
        from .schedule import schedule

        n = kind[-1]
        values = schedule(
            {
                "method": 3,
                "tag": 8,
                "suites": b"\x02",
                "c_i": b"\x0e",
                "c_r": b"\x27",
                "x": x[0],
                "y": y[0],
                "sk_i": i[0],
                "sk_r": r[0],
                "id_cred_i": cred_i.id_cred,
                "id_cred_r": cred_r.id_cred,
                "cred_i": cred_i.cred,
                "cred_r": cred_r.cred,
                "ead_1": b"",
                "ead_2": b"",
                "ead_3": b"",
                "ead_4": b"",
            },
            ("prk_2e", "th_2", "g_y", "k_" + n, "iv_" + n, "a_" + n),
        )
        if n == "2":
            stream = edhoc_kdf(values["prk_2e"], 0, values["th_2"], len(data))
            data = cbor.encode(values["g_y"] + xor(data, stream))
        else:
            k, iv, a = values["k_" + n], values["iv_" + n], values["a_" + n]
            data = cbor.encode(crypto.seal(AES_CCM_16_64_128, k, iv, a, data))
    if kind[-1] == "2":
        initiator.read_message_2(data)
        return "accepted"
    responder.read_message_1(message_1)
    message_2 = responder.message_2(b"\x27")
    if kind[-1] == "3":
        responder.read_message_3(data)
        return "accepted"
    initiator.read_message_2(message_2)
    initiator.verify_message_2(cred_r)
    initiator.message_3()
    initiator.read_message_4(data)
    return "accepted"
