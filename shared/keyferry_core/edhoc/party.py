"""What both roles of EDHOC share: the key schedule, the transcript and the state (RFC 9528)."""

from keyferry_core import cbor
from keyferry_core._compat import equal, sha256
from keyferry_core.cose import enc_structure, sig_structure
from keyferry_core.edhoc.credentials import Credential
from keyferry_core.edhoc.messages import SUITES, EdhocError, parse_error
from keyferry_core.errors import AuthenticationError, DecodeError, KeyferryError, StateError
from keyferry_core.iana import METHOD_SIGN_SIGN, METHOD_STATIC_STATIC
from keyferry_core.kdf import hkdf_expand, hkdf_extract

HASH_LENGTH = 32
KEY_LENGTH = 16
IV_LENGTH = 13
SIGNATURE_LENGTH = 64

FAILED = "failed"


def edhoc_kdf(prk: bytes, info_label: int, context: bytes | tuple, length: int) -> bytes:
    """``EDHOC_KDF``: HKDF-Expand over ``(info_label, context, length)`` (section 4.1.2).

    A ``context`` with a certificate in it comes as a tuple of its parts, which are never joined.
    """
    parts = context if isinstance(context, tuple) else (context,)
    size = 0
    for part in parts:
        size += len(part)
    head = cbor.encode(info_label) + cbor.bytes_head(size)
    return hkdf_expand(prk, (head,) + parts + (cbor.encode(length),), length)


def xor(left: bytes, right: bytes) -> bytes:
    """Bytes of equal length, XORed."""
    value = int.from_bytes(left, "big") ^ int.from_bytes(right, "big")
    return value.to_bytes(len(left), "big")


class Party:
    """One run of EDHOC. A step is called once, in the order that the role's TRANSITIONS allow.

    A call in the wrong state raises StateError and moves nothing. A step that fails ends the run:
    the state is FAILED, as section 6 asks, and what was raised is an EdhocError, whose ``message``
    is the error message for the peer.
    """

    # what the steps of a role find
    _c_r_item: bytes
    _th_3: bytes
    _th_4: bytes

    def __init__(
        self,
        transitions: dict,
        crypto,
        credential: Credential,
        private: bytes,
        known_eads: tuple,
    ) -> None:
        self._transitions = transitions
        self.crypto = crypto
        self.credential = credential
        self.state = "start"
        self.prk_out = self.prk_exporter = b""
        self._private = private
        self._known_eads = known_eads
        self._ephemeral = None

    def _run(self, call: str, step, *arguments):
        """Do ``step`` when ``call`` is possible now, and move on; an error from it is the end."""
        following = self._transitions[self.state].get(call)
        if following is None:
            raise StateError("edhoc: " + call + " in state " + self.state)
        try:
            result = step(*arguments)
        except KeyferryError as error:
            self._forget()
            self.state = FAILED
            if isinstance(error, (DecodeError, AuthenticationError)):
                raise EdhocError(call + ": " + error.detail) from None
            raise
        self.state = following
        return result

    def _forget(self) -> None:
        self._private = self._ephemeral = None
        self._prk_2e = self._prk_3e2m = self._prk_4e3m = b""
        self.prk_out = self.prk_exporter = b""

    def _choose(self, method: int, suite: int) -> None:
        if method not in (METHOD_SIGN_SIGN, METHOD_STATIC_STATIC):
            raise EdhocError("method " + str(method) + " is not offered")
        self.method = method
        self.suite = suite
        self._aead, self._mac_length = SUITES[suite]
        # a signature covers a MAC as long as the hash (section 4.1.2)
        if method == METHOD_SIGN_SIGN:
            self._mac_length = HASH_LENGTH
            self._authenticator_length = SIGNATURE_LENGTH
        else:
            self._authenticator_length = self._mac_length

    # Transcript and keys, in the order of section 4.1

    def _derive_prk_2e(self, g_y: bytes, message_1: bytes, g_xy: bytes) -> None:
        # TH_2 = H( G_Y, H(message_1) ); PRK_2e = EDHOC_Extract( TH_2, G_XY )
        self._th_2 = sha256(cbor.encode(g_y) + cbor.encode(sha256(message_1)))
        self._prk_2e = hkdf_extract(self._th_2, g_xy)

    def _crypt_2(self, text: bytes) -> bytes:
        """PLAINTEXT_2 from CIPHERTEXT_2, or the reverse (section 5.3.2)."""
        return xor(text, edhoc_kdf(self._prk_2e, 0, self._th_2, len(text)))

    def _mixed(self, prk: bytes, salt_label: int, th: bytes, shared: bytes | None) -> bytes:
        # PRK_3e2m and PRK_4e3m: the PRK before where that party signs, and with static DH
        # EDHOC_Extract( SALT, shared ), SALT = EDHOC_KDF( prk, salt_label, TH, hash_length )
        if shared is None:
            return prk
        return hkdf_extract(edhoc_kdf(prk, salt_label, th, HASH_LENGTH), shared)

    def _mac_2(self, credential_r: Credential, ead_2: bytes) -> bytes:
        # context_2 = << C_R, ID_CRED_R, TH_2, CRED_R, ? EAD_2 >>
        head = self._c_r_item + credential_r.id_cred + cbor.encode(self._th_2)
        context_2 = (head, credential_r.cred, ead_2)
        return edhoc_kdf(self._prk_3e2m, 2, context_2, self._mac_length)

    def _mac_3(self, credential_i: Credential, ead_3: bytes) -> bytes:
        # context_3 = << ID_CRED_I, TH_3, CRED_I, ? EAD_3 >>
        head = credential_i.id_cred + cbor.encode(self._th_3)
        context_3 = (head, credential_i.cred, ead_3)
        return edhoc_kdf(self._prk_4e3m, 6, context_3, self._mac_length)

    def _to_be_signed(self, credential: Credential, th: bytes, ead: bytes, mac: bytes) -> bytes:
        # COSE_Sign1: protected << ID_CRED_x >>, external_aad << TH_x, CRED_x, ? EAD_x >>
        return sig_structure(credential.id_cred, (cbor.encode(th), credential.cred, ead), mac)

    def _authenticate(self, th: bytes, ead: bytes, mac: bytes) -> bytes:
        """This party's Signature_or_MAC."""
        if self.method != METHOD_SIGN_SIGN:
            return mac
        to_be_signed = self._to_be_signed(self.credential, th, ead, mac)
        return self.crypto.sign(self._private, to_be_signed)

    def _check(self, peer: Credential, th: bytes, ead: bytes, mac: bytes, received: bytes) -> None:
        """Raise AuthenticationError unless the peer's Signature_or_MAC verifies."""
        if self.method != METHOD_SIGN_SIGN:
            good = equal(mac, received)
        else:
            to_be_signed = self._to_be_signed(peer, th, ead, mac)
            good = self.crypto.verify(peer.public, to_be_signed, received)
        if not good:
            raise AuthenticationError("the peer's Signature_or_MAC does not verify")

    def _transcript(self, th: bytes, plaintext: bytes, cred: bytes) -> bytes:
        # TH_3 = H( TH_2, PLAINTEXT_2, CRED_R ); TH_4 = H( TH_3, PLAINTEXT_3, CRED_I )
        return sha256(cbor.encode(th), plaintext, cred)

    def _aead_keys(self, prk: bytes, label: int, th: bytes) -> tuple[bytes, bytes, bytes]:
        # K_3 and IV_3 have labels 3 and 4, K_4 and IV_4 labels 8 and 9; A_i holds TH_i
        key = edhoc_kdf(prk, label, th, KEY_LENGTH)
        iv = edhoc_kdf(prk, label + 1, th, IV_LENGTH)
        return key, iv, enc_structure(b"", th)

    def _complete(self) -> None:
        # PRK_out = EDHOC_KDF( PRK_4e3m, 7, TH_4, hash_length )
        self._set_prk_out(edhoc_kdf(self._prk_4e3m, 7, self._th_4, HASH_LENGTH))
        # message_4 still needs PRK_4e3m; nothing else of the run does
        self._private = self._ephemeral = None
        self._prk_2e = self._prk_3e2m = b""

    def _set_prk_out(self, prk_out: bytes) -> None:
        self.prk_out = prk_out
        self.prk_exporter = edhoc_kdf(prk_out, 10, b"", HASH_LENGTH)

    def read_error(self, message: bytes) -> tuple[int, object]:
        """``(ERR_CODE, ERR_INFO)`` of the peer's error message, which ends the run."""
        return self._run("read_error", self._read_error, message)

    def _read_error(self, message: bytes) -> tuple[int, object]:
        code, info = parse_error(message)
        self._forget()
        return code, info

    # After the exchange

    def exporter(self, label: int, context: bytes, length: int) -> bytes:
        """``EDHOC_Exporter`` (section 4.2.1): ``length`` bytes. StateError before completion."""
        if not self.prk_exporter:
            raise StateError("edhoc: exporter in state " + self.state)
        return edhoc_kdf(self.prk_exporter, label, context, length)

    def key_update(self, context: bytes) -> None:
        """``EDHOC_KeyUpdate`` (appendix H): both parties call it with the same ``context``.

        It heals nothing after a compromise; only a new run does.
        """
        if not self.prk_out:
            raise StateError("edhoc: key_update in state " + self.state)
        self._set_prk_out(edhoc_kdf(self.prk_out, 11, context, HASH_LENGTH))
