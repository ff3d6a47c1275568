"""The Responder of EDHOC (RFC 9528, section 5)."""

from keyferry_core import cbor
from keyferry_core.edhoc.credentials import Credential
from keyferry_core.edhoc.messages import (
    EdhocError,
    WrongSuite,
    decode_bstr,
    decode_ead,
    decode_message_1,
    decode_plaintext,
    encode_ead,
    encode_id_cred,
    encode_identifier,
)
from keyferry_core.edhoc.party import FAILED, Party
from keyferry_core.iana import EDHOC_UNKNOWN_CREDENTIAL, METHOD_SIGN_SIGN, METHOD_STATIC_STATIC

# state: {call: state that follows}. A failed call leads to FAILED, one not listed nowhere.
TRANSITIONS = {
    "start": {"read_message_1": "message_1_read"},
    "message_1_read": {"message_2": "wait_message_3"},
    "wait_message_3": {"read_message_3": "authenticate_initiator", "read_error": FAILED},
    "authenticate_initiator": {"verify_message_3": "initiator_authenticated"},
    "initiator_authenticated": {"message_4": "completed"},
    "completed": {},
    FAILED: {},
}


class Responder(Party):
    """``methods`` and ``suites``: what is accepted, suites in order of preference."""

    def __init__(
        self,
        crypto,
        credential: Credential,
        private: bytes,
        methods: tuple = (METHOD_SIGN_SIGN,),
        suites: tuple = (3, 2),
        known_eads: tuple = (),
        ephemeral=None,
    ) -> None:
        super().__init__(TRANSITIONS, crypto, credential, private, known_eads)
        self._methods = methods
        self._suites = suites
        self._ephemeral = ephemeral

    def read_message_1(self, message_1: bytes) -> list:
        """EAD_1, which nothing protects. WrongSuite carries the answer to a suite not taken."""
        return self._run("read_message_1", self._read_message_1, message_1)

    def _read_message_1(self, message_1: bytes) -> list:
        method, suites_i, self._g_x, self.c_i, ead_1 = decode_message_1(message_1)
        if method not in self._methods:
            raise EdhocError("method " + str(method) + " is not accepted")
        selected = suites_i[-1]
        # the selected suite must be the first of the Initiator's that both have (section 5.2.3)
        if selected not in self._suites:
            raise WrongSuite(self._suites)
        for suite in suites_i[:-1]:
            if suite in self._suites:
                raise WrongSuite(self._suites)
        self._choose(method, selected)
        self._first = message_1
        return decode_ead(ead_1, self._known_eads)

    def message_2(self, c_r: bytes, ead_2: list | tuple = ()) -> bytes:
        """message_2 with own identifier ``c_r``. EAD_2 is readable to an active attacker."""
        return self._run("message_2", self._message_2, c_r, ead_2)

    def _message_2(self, c_r: bytes, ead_2: list | tuple) -> bytes:
        if self._ephemeral is None:
            self._ephemeral = self.crypto.generate()
        g_y = self._ephemeral[1][1:33]
        self.c_r = c_r
        self._c_r_item = encode_identifier(c_r)
        self._derive_prk_2e(g_y, self._first, self.crypto.ecdh(self._ephemeral[0], self._g_x))
        self._first = b""
        g_rx = None
        if self.method == METHOD_STATIC_STATIC:
            g_rx = self.crypto.ecdh(self._private, self._g_x)
        self._prk_3e2m = self._mixed(self._prk_2e, 1, self._th_2, g_rx)
        ead = encode_ead(ead_2)
        mac_2 = self._mac_2(self.credential, ead)
        plaintext_2 = (
            self._c_r_item
            + encode_id_cred(self.credential.id_cred)
            + cbor.encode(self._authenticate(self._th_2, ead, mac_2))
            + ead
        )
        self._th_3 = self._transcript(self._th_2, plaintext_2, self.credential.cred)
        return cbor.encode(g_y + self._crypt_2(plaintext_2))

    def read_message_3(self, message_3: bytes) -> tuple[bytes, list]:
        """``(ID_CRED_I, EAD_3)``, not authenticated yet: find the credential for the next step."""
        return self._run("read_message_3", self._read_message_3, message_3)

    def _read_message_3(self, message_3: bytes) -> tuple[bytes, list]:
        ciphertext_3 = decode_bstr(message_3, 8, "message_3")
        key, iv, aad = self._aead_keys(self._prk_3e2m, 3, self._th_3)
        self._plaintext = self.crypto.open(self._aead, key, iv, aad, ciphertext_3)
        self._id_cred, self._received, self._ead = decode_plaintext(
            self._plaintext, 0, self._authenticator_length
        )
        return self._id_cred, decode_ead(self._ead, self._known_eads)

    def verify_message_3(self, credential_i: Credential) -> None:
        """Authenticate the Initiator. The exporter works from here on."""
        self._run("verify_message_3", self._verify_message_3, credential_i)

    def _verify_message_3(self, credential_i: Credential) -> None:
        if credential_i.id_cred != self._id_cred:
            detail = "the credential is not the one that ID_CRED_I names"
            raise EdhocError(detail, EDHOC_UNKNOWN_CREDENTIAL, True)
        g_iy = None
        if self.method == METHOD_STATIC_STATIC:
            g_iy = self.crypto.ecdh(self._ephemeral[0], credential_i.public)
        self._prk_4e3m = self._mixed(self._prk_3e2m, 5, self._th_3, g_iy)
        mac_3 = self._mac_3(credential_i, self._ead)
        self._check(credential_i, self._th_3, self._ead, mac_3, self._received)
        self._th_4 = self._transcript(self._th_3, self._plaintext, credential_i.cred)
        self._plaintext = self._received = self._ead = b""
        self._complete()

    def message_4(self, ead_4: tuple = ()) -> bytes:
        """message_4, which confirms the keys to the Initiator when there is no data to send yet."""
        return self._run("message_4", self._message_4, ead_4)

    def _message_4(self, ead_4: tuple) -> bytes:
        key, iv, aad = self._aead_keys(self._prk_4e3m, 8, self._th_4)
        message_4 = cbor.encode(self.crypto.seal(self._aead, key, iv, aad, encode_ead(ead_4)))
        self._prk_4e3m = b""
        return message_4
