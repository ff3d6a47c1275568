"""The issuing CA's key in a PKCS#11 token: it signs there, and never leaves.

``cryptography`` asks a private key for two things only when it signs a certificate: its public key,
and a signature. TokenKey gives both, so that everything above it is the same as with a file.
"""

import contextlib
import hashlib
import os
import stat
import threading
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from keyferry_manager.authority.files import is_p256
from keyferry_manager.config import Config
from keyferry_manager.problems import AuthorityProblem, AuthorityUnavailable

PIN_VARIABLE = "KEYFERRY_PKCS11_PIN"
_SCALAR = 32  # bytes of r and of s on P-256
_MAX_PIN = 256
# OBJECT IDENTIFIER prime256v1, as CKA_EC_PARAMS has it
_P256 = bytes.fromhex("06082a8648ce3d030107")

# One log-in for each token and process: PKCS#11 refuses a second one. By module and label.
_sessions: dict[tuple[str, str], Any] = {}
# A session is one conversation; threads take turns.
_lock = threading.RLock()


class TokenKey(ec.EllipticCurvePrivateKey):
    """A P-256 key in a token. ``sign`` blocks for as long as the token takes."""

    def __init__(self, config: Config, public_key: ec.EllipticCurvePublicKey) -> None:
        self._config = config
        self._public = public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        return ec.SECP256R1()

    @property
    def key_size(self) -> int:
        return 256

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """ECDSA with SHA-256, DER. AuthorityUnavailable when the token does not answer."""
        algorithm = signature_algorithm.algorithm
        if not isinstance(algorithm, hashes.SHA256):
            raise UnsupportedAlgorithm("the token's key signs with SHA-256 only")
        pkcs11 = _library()
        digest = hashlib.sha256(bytes(data)).digest()
        with _lock:
            try:
                raw = self._signed(digest)
            except (pkcs11.PKCS11Error, AuthorityProblem):
                # It may have been taken out and put back, which ends what was logged in.
                _start_anew(self._config)
                try:
                    raw = self._signed(digest)
                except pkcs11.PKCS11Error as error:
                    problem = _problem(self._config, "the token did not sign", error)
                    raise AuthorityUnavailable(str(problem)) from None
                except AuthorityProblem as problem:
                    raise AuthorityUnavailable(str(problem)) from None
        if len(raw) != 2 * _SCALAR:
            raise AuthorityProblem("the token's signature is not one of P-256.")
        r, s = raw[:_SCALAR], raw[_SCALAR:]
        return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))

    def _signed(self, digest: bytes) -> bytes:
        mechanism = _library().Mechanism.ECDSA
        key = _private(_session(self._config), self._config.pkcs11_key)
        return key.sign(digest, mechanism=mechanism)

    def exchange(self, algorithm: Any, peer_public_key: Any) -> NoReturn:
        raise UnsupportedAlgorithm("the token's key signs only")

    def private_numbers(self) -> NoReturn:
        raise UnsupportedAlgorithm("the key does not leave the token")

    def private_bytes(self, *_: Any, **__: Any) -> NoReturn:
        raise UnsupportedAlgorithm("the key does not leave the token")

    def __copy__(self) -> "TokenKey":
        return self

    def __deepcopy__(self, memo: Any) -> "TokenKey":
        return self


def token_key(config: Config, make: bool = False) -> TokenKey:
    """The key that the settings name; with ``make`` it is made when it is not there.

    AuthorityProblem when the token, its PIN or the key is not what it should be.
    """
    pkcs11 = _library()
    from pkcs11.util.ec import encode_ec_public_key

    label = config.pkcs11_key
    with _lock:
        try:
            try:
                _private(_session(config), label)
            except pkcs11.NoSuchKey:
                if not make:
                    raise
                _generate(config)
            found = _session(config).get_key(
                object_class=pkcs11.ObjectClass.PUBLIC_KEY, label=label
            )
            public = load_der_public_key(encode_ec_public_key(found))
        except pkcs11.NoSuchKey:
            raise AuthorityProblem(
                f"the token {config.pkcs11_token!r} has no key pair called {label!r}: check "
                "authority.pkcs11_key."
            ) from None
        except pkcs11.MultipleObjectsReturned:
            raise AuthorityProblem(
                f"the token {config.pkcs11_token!r} has several keys called {label!r}: give one "
                "another label."
            ) from None
        except pkcs11.PKCS11Error as error:
            raise _problem(config, "the token cannot be used", error) from None
        except (ValueError, KeyError, TypeError):
            raise AuthorityProblem(f"the key {label!r} in the token cannot be read.") from None
    if not is_p256(public):
        raise AuthorityProblem(f"the key {label!r} in the token must be ECDSA on P-256.")
    assert isinstance(public, ec.EllipticCurvePublicKey)
    return TokenKey(config, public)


def read_pin(config: Config) -> str:
    """The PIN, from the file that the settings name or from the environment."""
    if not config.pkcs11_pin_file:
        pin = os.environ.get(PIN_VARIABLE, "")
        if not pin:
            raise AuthorityProblem(
                f"the token's PIN is missing: set authority.pkcs11_pin_file, or {PIN_VARIABLE}."
            )
        return pin
    path = Path(config.pkcs11_pin_file)
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_MAX_PIN + 1)
    except OSError as error:
        raise AuthorityProblem(f"{path} cannot be read: {error.strerror}.") from None
    if mode & 0o077:
        raise AuthorityProblem(
            f"{path} can be read by others (mode {mode:03o}): run 'chmod 600 {path}', and change "
            "the PIN if somebody may have read it."
        )
    try:
        pin = data.decode().strip()
    except UnicodeDecodeError:
        pin = ""
    if not pin or len(data) > _MAX_PIN:
        raise AuthorityProblem(f"{path} holds no PIN: write it there, on one line.")
    return pin


def _library() -> Any:
    try:
        import pkcs11
    except ImportError:
        raise AuthorityProblem(
            "python-pkcs11 is not installed: pip install 'keyferry[pkcs11]'."
        ) from None
    return pkcs11


def _session(config: Config, rw: bool = False) -> Any:
    """The open session; with ``rw`` a new one that may make keys, which the caller closes."""
    pkcs11 = _library()
    where = (config.pkcs11_module, config.pkcs11_token)
    if not rw and where in _sessions:
        return _sessions[where]
    try:
        token = pkcs11.lib(config.pkcs11_module).get_token(token_label=config.pkcs11_token)
    except pkcs11.NoSuchToken:
        raise AuthorityProblem(
            f"{config.pkcs11_module} has no token called {config.pkcs11_token!r}: check "
            "authority.pkcs11_token."
        ) from None
    except (RuntimeError, OSError):
        raise AuthorityProblem(
            f"{config.pkcs11_module} cannot be loaded as a PKCS#11 module: check "
            "authority.pkcs11_module."
        ) from None
    session = token.open(user_pin=read_pin(config), rw=rw)
    if not rw:
        _sessions[where] = session
    return session


def _forget(config: Config) -> None:
    """Let go of a session that does not answer, so that the next use opens another."""
    pkcs11 = _library()
    session = _sessions.pop((config.pkcs11_module, config.pkcs11_token), None)
    if session is not None:
        with contextlib.suppress(pkcs11.PKCS11Error):  # it is gone already
            session.close()


def _start_anew(config: Config) -> None:
    """Let the module look at its tokens again: one that was away may be back."""
    pkcs11 = _library()
    for where in [where for where in _sessions if where[0] == config.pkcs11_module]:
        del _sessions[where]
    with contextlib.suppress(pkcs11.PKCS11Error, RuntimeError, OSError):
        pkcs11.lib(config.pkcs11_module).reinitialize()


def _private(session: Any, label: str) -> Any:
    return session.get_key(object_class=_library().ObjectClass.PRIVATE_KEY, label=label)


def _generate(config: Config) -> None:
    """A pair that is kept in the token, whose private half cannot be read."""
    pkcs11 = _library()
    attributes = pkcs11.Attribute
    _forget(config)  # one log-in at a time
    session = _session(config, rw=True)
    try:
        kind = pkcs11.KeyType.EC
        parameters = session.create_domain_parameters(
            kind, {attributes.EC_PARAMS: _P256}, local=True
        )
        parameters.generate_keypair(
            mechanism=pkcs11.Mechanism.EC_KEY_PAIR_GEN,
            store=True,
            label=config.pkcs11_key,
            id=os.urandom(8),
            capabilities=pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY,
            private_template={attributes.SENSITIVE: True, attributes.EXTRACTABLE: False},
        )
    finally:
        session.close()


def _problem(config: Config, what: str, error: Exception) -> AuthorityProblem:
    pkcs11 = _library()
    if isinstance(error, (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange)):
        return AuthorityProblem(f"the PIN of the token {config.pkcs11_token!r} is wrong.")
    if isinstance(error, pkcs11.PinLocked):
        return AuthorityProblem(
            f"the PIN of the token {config.pkcs11_token!r} is locked after wrong attempts."
        )
    return AuthorityProblem(
        f"{what} ({type(error).__name__}): check the token {config.pkcs11_token!r}."
    )
