"""EDHOC's key schedule (RFC 9528, sections 4 and 5, appendix H), value by value.

A trace comes as a dict, ``given``: ``method``; ``tag``, the bytes of the suite's MAC; ``suites``,
SUITES_I as encoded; ``c_i`` and ``c_r``; the private keys ``x``, ``y``, ``sk_i``, ``sk_r``;
``id_cred_i``, ``cred_i`` and the same for r, as CBOR items; ``ead_1`` to ``ead_4`` as sequences;
``context`` of a key update. What a curve or a signature scheme yields that the core does not have
may be given as well: ``g_x``, ``g_y``, ``g_xy``, ``g_rx``, ``g_iy``, ``signature_2``,
``signature_3``.
"""

import os

from keyferry_core import cbor, suite
from keyferry_core._compat import sha256
from keyferry_core.cose import enc_structure, sig_structure
from keyferry_core.edhoc.messages import encode_id_cred, encode_identifier
from keyferry_core.edhoc.party import edhoc_kdf, xor
from keyferry_core.iana import AES_CCM_16_64_128, AES_CCM_16_128_128
from keyferry_core.kdf import hkdf_extract

_HASH = 32
# Values that are CBOR items already; the others are byte strings until they are encoded.
_ITEMS = ["id_cred_i", "id_cred_r", "cred_i", "cred_r", "a_3", "a_4"]
_ITEMS += ["message_to_be_signed_2", "message_to_be_signed_3"]
_RAW = ("_raw_value_ecdh_shared_secret", "_raw_value", "_cbor_sequence")
_ENCODED = ("_cbor_data_item", "_cbor_byte_string")


def do_edhoc_schedule(given: dict, names: list) -> list:
    """The values of ``names``, RFC 9529's names for them; None for one that there is not."""
    parts = [_split(name) for name in names]
    values = schedule(given, tuple([base for base, _ in parts]))
    return [_formed(values.get(base), base, ending) for base, ending in parts]


def _split(name: str) -> tuple:
    """A value's name, and the form that the end of the name says."""
    for ending in _RAW + _ENCODED:
        if name.endswith(ending):
            return name[: -len(ending)], ending
    return name, ""


def _formed(value, base: str, ending: str):
    if value is None or ending not in _ENCODED:
        return value
    if base in _ITEMS and ending == "_cbor_data_item":
        return value
    return encode_identifier(value) if base in ("c_i", "c_r") else cbor.encode(value)


def schedule(given: dict, wanted: tuple) -> dict:
    """The values that are ``wanted`` of a run, by their names, from its inputs alone."""
    run = _Run(given, wanted)
    run.public_keys()
    run.message_1()
    run.message_2()
    run.message_3()
    run.message_4()
    run.after()
    return run.values


class _Run:
    """One run, step by step. Only what is wanted is kept: all of it would fill a small heap."""

    def __init__(self, given: dict, wanted: tuple) -> None:
        self._crypto = suite.Crypto(os.urandom)
        self._given = given
        self._wanted = wanted
        self.values = {}
        method = given["method"]
        # method 0: both sign; 1: R is static; 2: I is static; 3: both are
        self._i_signs, self._r_signs = method in (0, 1), method in (0, 2)
        self._tag = given["tag"]
        self._alg = AES_CCM_16_128_128 if self._tag == 16 else AES_CCM_16_64_128
        self._c_r = encode_identifier(given["c_r"])

    def _keep(self, name: str, value: bytes) -> bytes:
        if name in self._wanted:
            self.values[name] = value
        return value

    def _derive(self, name: str, prk: bytes, label: int, context: bytes, length: int) -> bytes:
        self._keep("context_of_" + name, context)
        if "info_for_" + name in self._wanted:
            info = cbor.encode(label) + cbor.encode(context) + cbor.encode(length)
            self._keep("info_for_" + name, info)
        return self._keep(name, edhoc_kdf(prk, label, context, length))

    def _shared(self, name: str, private: str, peer: bytes) -> bytes:
        given = self._given
        value = given[name] if name in given else self._crypto.ecdh(given[private], peer)
        return self._keep(name, value)

    def _ephemeral(self, name: str, private: str, who: str) -> bytes:
        if name in self._given:
            return self._keep(name, self._given[name])
        public = self._crypto.public_key(self._given[private])
        self._keep(who + "_ephemeral_public_key_one_y_coordinate", public[33:])
        return self._keep(name, public[1:33])

    def public_keys(self) -> None:
        given, keep = self._given, self._keep
        self._g_x = self._ephemeral("g_x", "x", "initiators")
        self._g_y = self._ephemeral("g_y", "y", "responders")
        for who, role in (("r", "responders"), ("i", "initiators")):
            if "sk_" + who in given:
                public = self._crypto.public_key(given["sk_" + who])
                keep("pk_" + who, public)
                role += "_public_authentication_key_"
                keep(role + "x_coordinate", public[1:33])
                keep(role + "y_coordinate", public[33:])
            for name in ("id_cred_", "cred_", "c_"):
                keep(name + who, given[name + who])

    def message_1(self) -> None:
        given, keep = self._given, self._keep
        message_1 = cbor.encode(given["method"]) + given["suites"] + cbor.encode(self._g_x)
        message_1 += encode_identifier(given["c_i"]) + given["ead_1"]
        keep("message_1", message_1)
        # TH_2 = H( G_Y, H(message_1) ); PRK_2e = EDHOC_Extract( TH_2, G_XY )
        hashed = keep("h_message_1", sha256(message_1))
        transcript = cbor.encode(self._g_y) + cbor.encode(hashed)
        keep("input_to_calculate_th_2", transcript)
        self._th_2 = keep("th_2", sha256(transcript))
        keep("salt", self._th_2)
        g_xy = self._shared("g_xy", "x", self._g_y)
        self._prk_2e = keep("prk_2e", hkdf_extract(self._th_2, g_xy))

    def _authenticator(self, n: str, prk: bytes, label: int, context: bytes, signs: bool) -> bytes:
        """Signature_or_MAC_2 or _3; ``context`` without the C_R that leads context_2."""
        given, keep = self._given, self._keep
        who = "r" if n == "2" else "i"
        lead = self._c_r if n == "2" else b""
        keep("context_" + n, lead + context)
        mac = self._derive("mac_" + n, prk, label, lead + context, _HASH if signs else self._tag)
        if not signs:
            return keep("signature_or_mac_" + n, mac)
        # what follows ID_CRED_x in the context is the external_aad: << TH, CRED, ? EAD >>
        id_cred = given["id_cred_" + who]
        signed = sig_structure(id_cred, context[len(id_cred) :], mac)
        keep("message_to_be_signed_" + n, signed)
        signature = given.get("signature_" + n)
        if signature is None:
            signature = self._crypto.sign(given["sk_" + who], signed)
        return keep("signature_or_mac_" + n, signature)

    def message_2(self) -> None:
        given, keep, th_2 = self._given, self._keep, self._th_2
        prk_3e2m = self._prk_2e
        if not self._r_signs:
            salt = self._derive("salt_3e2m", self._prk_2e, 1, th_2, _HASH)
            prk_3e2m = hkdf_extract(salt, self._shared("g_rx", "sk_r", self._g_x))
        self._prk_3e2m = keep("prk_3e2m", prk_3e2m)
        id_cred, cred, ead = given["id_cred_r"], given["cred_r"], given["ead_2"]
        context = id_cred + cbor.encode(th_2) + cred + ead
        proof = self._authenticator("2", prk_3e2m, 2, context, self._r_signs)
        plaintext = self._c_r + encode_id_cred(id_cred) + cbor.encode(proof) + ead
        keep("plaintext_2", plaintext)
        stream = self._derive("keystream_2", self._prk_2e, 0, th_2, len(plaintext))
        ciphertext = keep("ciphertext_2", xor(plaintext, stream))
        keep("message_2", cbor.encode(self._g_y + ciphertext))
        transcript = keep("input_to_calculate_th_3", cbor.encode(th_2) + plaintext + cred)
        self._th_3 = keep("th_3", sha256(transcript))

    def _protect(self, n: str, prk: bytes, label: int, th: bytes, plaintext: bytes) -> None:
        keep = self._keep
        keep("plaintext_" + n, plaintext)
        key = self._derive("k_" + n, prk, label, th, 16)
        iv = self._derive("iv_" + n, prk, label + 1, th, 13)
        aad = keep("a_" + n, enc_structure(b"", th))
        sealed = keep("ciphertext_" + n, self._crypto.seal(self._alg, key, iv, aad, plaintext))
        keep("message_" + n, cbor.encode(sealed))

    def message_3(self) -> None:
        given, keep, th_3 = self._given, self._keep, self._th_3
        prk_4e3m = self._prk_3e2m
        if not self._i_signs:
            salt = self._derive("salt_4e3m", self._prk_3e2m, 5, th_3, _HASH)
            prk_4e3m = hkdf_extract(salt, self._shared("g_iy", "sk_i", self._g_y))
        self._prk_4e3m = keep("prk_4e3m", prk_4e3m)
        id_cred, cred, ead = given["id_cred_i"], given["cred_i"], given["ead_3"]
        context = id_cred + cbor.encode(th_3) + cred + ead
        proof = self._authenticator("3", prk_4e3m, 6, context, self._i_signs)
        plaintext = encode_id_cred(id_cred) + cbor.encode(proof) + ead
        self._protect("3", self._prk_3e2m, 3, th_3, plaintext)
        transcript = keep("input_to_calculate_th_4", cbor.encode(th_3) + plaintext + cred)
        self._th_4 = keep("th_4", sha256(transcript))

    def message_4(self) -> None:
        self._protect("4", self._prk_4e3m, 8, self._th_4, self._given["ead_4"])

    def after(self) -> None:
        """Exporter and key update."""
        given, keep, derive = self._given, self._keep, self._derive
        keep("clients_oscore_sender_id", given["c_r"])
        keep("servers_oscore_sender_id", given["c_i"])
        prk_out = derive("prk_out", self._prk_4e3m, 7, self._th_4, _HASH)
        self._exported(prk_out, "")
        if "context" in given:
            context = keep("context_for_keyupdate", given["context"])
            prk_out = derive("prk_out_after_keyupdate", prk_out, 11, context, _HASH)
            self._exported(prk_out, "_after_keyupdate")

    def _exported(self, prk_out: bytes, ending: str) -> None:
        prk_exporter = self._derive("prk_exporter" + ending, prk_out, 10, b"", _HASH)
        self._derive("oscore_master_secret" + ending, prk_exporter, 0, b"", 16)
        self._derive("oscore_master_salt" + ending, prk_exporter, 1, b"", 8)
