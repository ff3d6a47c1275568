"""The Initiator of EDHOC (RFC 9528, section 5)."""

from keyferry_core import cbor
from keyferry_core.edhoc.credentials import Credential
from keyferry_core.edhoc.messages import (
    EdhocError,
    decode_bstr,
    decode_ead,
    decode_identifier,
    decode_plaintext,
    encode_ead,
    encode_id_cred,
    encode_message_1,
)
from keyferry_core.edhoc.party import FAILED, Party
from keyferry_core.iana import EDHOC_UNKNOWN_CREDENTIAL, METHOD_SIGN_SIGN, METHOD_STATIC_STATIC

# state: {call: state that follows}. A failed call leads to FAILED, one not listed nowhere.
TRANSITIONS = {
    "start": {"message_1": "wait_message_2"},
    "wait_message_2": {"read_message_2": "authenticate_responder", "read_error": FAILED},
    "authenticate_responder": {"verify_message_2": "responder_authenticated"},
    "responder_authenticated": {"message_3": "wait_message_4"},
    "wait_message_4": {"read_message_4": "completed", "read_error": FAILED},
    "completed": {},
    FAILED: {},
}


class Initiator(Party):
    """``suites``: in order of preference, the last is the selected one. ``c_i``: own identifier.

    ``ephemeral``: a ``(private, public)`` pair made ahead and used nowhere else, or None.
    """

    def __init__(
        self,
        crypto,
        credential: Credential,
        private: bytes,
        method: int = METHOD_SIGN_SIGN,
        suites: tuple = (3,),
        c_i: bytes = b"\x00",
        known_eads: tuple = (),
        ephemeral=None,
    ) -> None:
        super().__init__(TRANSITIONS, crypto, credential, private, known_eads)
        self._choose(method, suites[-1])
        self._suites = suites
        self.c_i = c_i
        self._ephemeral = ephemeral

    def message_1(self, ead_1: tuple = ()) -> bytes:
        """message_1; EAD_1 is protected by nothing."""
        return self._run("message_1", self._message_1, ead_1)

    def _message_1(self, ead_1: tuple) -> bytes:
        if self._ephemeral is None:
            self._ephemeral = self.crypto.generate()
        g_x = self._ephemeral[1][1:33]
        self._first = encode_message_1(self.method, self._suites, g_x, self.c_i, encode_ead(ead_1))
        return self._first

    def read_message_2(self, message_2: bytes) -> tuple[bytes, list]:
        """``(ID_CRED_R, EAD_2)``, not authenticated yet: find the credential for the next step."""
        return self._run("read_message_2", self._read_message_2, message_2)

    def _read_message_2(self, message_2: bytes) -> tuple[bytes, list]:
        value = decode_bstr(message_2, 33, "message_2")
        g_y = value[:32]
        g_xy = self.crypto.ecdh(self._ephemeral[0], g_y)
        self._derive_prk_2e(g_y, self._first, g_xy)
        self._first = b""
        plaintext_2 = self._crypt_2(value[32:])
        self.c_r, position = decode_identifier(plaintext_2, 0)
        self._c_r_item = plaintext_2[:position]
        id_cred_r, self._received, self._ead = decode_plaintext(
            plaintext_2, position, self._authenticator_length
        )
        self._plaintext = plaintext_2
        self._id_cred = id_cred_r
        self._g_y = g_y
        return id_cred_r, decode_ead(self._ead, self._known_eads)

    def verify_message_2(self, credential_r: Credential) -> None:
        """Authenticate the Responder. ``credential_r`` must be the one that ID_CRED_R names."""
        self._run("verify_message_2", self._verify_message_2, credential_r)

    def _verify_message_2(self, credential_r: Credential) -> None:
        if credential_r.id_cred != self._id_cred:
            detail = "the credential is not the one that ID_CRED_R names"
            raise EdhocError(detail, EDHOC_UNKNOWN_CREDENTIAL, True)
        g_rx = None
        if self.method == METHOD_STATIC_STATIC:
            g_rx = self.crypto.ecdh(self._ephemeral[0], credential_r.public)
        self._prk_3e2m = self._mixed(self._prk_2e, 1, self._th_2, g_rx)
        mac_2 = self._mac_2(credential_r, self._ead)
        self._check(credential_r, self._th_2, self._ead, mac_2, self._received)
        self._th_3 = self._transcript(self._th_2, self._plaintext, credential_r.cred)
        self._plaintext = self._received = self._ead = b""

    def message_3(self, ead_3: list | tuple = ()) -> bytes:
        """message_3. The exporter works from here on."""
        return self._run("message_3", self._message_3, ead_3)

    def _message_3(self, ead_3: list | tuple) -> bytes:
        g_iy = None
        if self.method == METHOD_STATIC_STATIC:
            g_iy = self.crypto.ecdh(self._private, self._g_y)
        self._prk_4e3m = self._mixed(self._prk_3e2m, 5, self._th_3, g_iy)
        ead = encode_ead(ead_3)
        mac_3 = self._mac_3(self.credential, ead)
        plaintext_3 = (
            encode_id_cred(self.credential.id_cred)
            + cbor.encode(self._authenticate(self._th_3, ead, mac_3))
            + ead
        )
        key, iv, aad = self._aead_keys(self._prk_3e2m, 3, self._th_3)
        ciphertext_3 = self.crypto.seal(self._aead, key, iv, aad, plaintext_3)
        self._th_4 = self._transcript(self._th_3, plaintext_3, self.credential.cred)
        self._complete()
        return cbor.encode(ciphertext_3)

    def read_message_4(self, message_4: bytes) -> list:
        """EAD_4; the Responder is then known to have the same keys."""
        return self._run("read_message_4", self._read_message_4, message_4)

    def _read_message_4(self, message_4: bytes) -> list:
        ciphertext_4 = decode_bstr(message_4, 8, "message_4")
        key, iv, aad = self._aead_keys(self._prk_4e3m, 8, self._th_4)
        plaintext_4 = self.crypto.open(self._aead, key, iv, aad, ciphertext_4)
        items = decode_ead(plaintext_4, self._known_eads)
        self._prk_4e3m = b""
        return items


def suites_after(error: tuple, supported: tuple) -> tuple:
    """SUITES_I for a second message_1, after error 2 with SUITES_R (section 6.3).

    ``supported`` in order of preference. EdhocError when the parties have no suite in common.
    """
    info = error[1]
    suites_r = info if isinstance(info, list) else [info]
    for index, suite in enumerate(supported):
        if suite in suites_r:
            return supported[: index + 1]
    raise EdhocError("no cipher suite in common")
