"""Names of devices and realms, and the identity URI of a certificate (``sip:NAME@REALM``)."""

from keyferry_core.errors import DecodeError

MAX_NAME = 63
MAX_REALM = 128
# The manager's own name in ``from`` and ``to``. No device can have it.
MANAGER = "manager"

_LABEL = "abcdefghijklmnopqrstuvwxyz0123456789-"


def _check_labels(text: str, what: str) -> str:
    for label in text.split("."):
        if not label or len(label) > MAX_NAME or label[0] == "-" or label[-1] == "-":
            raise DecodeError(what + ": empty label, or '-' at its start or end")
        for char in label:
            if char not in _LABEL:
                raise DecodeError(what + ": only a-z, 0-9, '-', and '.' between labels")
    return text


def check_name(text: object) -> str:
    """Return ``text`` when it is a device's name (1 to 63 characters), else raise DecodeError.

    ``manager`` is refused: it is the manager's own name on every link.
    """
    if not isinstance(text, str) or not 0 < len(text) <= MAX_NAME:
        raise DecodeError("name: a text of 1 to 63 characters")
    if text == MANAGER:
        raise DecodeError("name: 'manager' is reserved")
    return _check_labels(text, "name")


def check_realm(text: object) -> str:
    """Return ``text`` when it is a realm (a lower-case DNS name of at most 128 characters)."""
    if not isinstance(text, str) or not 0 < len(text) <= MAX_REALM:
        raise DecodeError("realm: a text of 1 to 128 characters")
    return _check_labels(text, "realm")


def identity(name: str, realm: str) -> str:
    """The URI that stands in a certificate's subject alternative name."""
    return "sip:" + check_name(name) + "@" + check_realm(realm)


def parse_identity(uri: object) -> tuple[str, str]:
    """Split ``sip:NAME@REALM`` into name and realm. DecodeError for anything else."""
    if not isinstance(uri, str) or not uri.startswith("sip:") or uri.count("@") != 1:
        raise DecodeError("identity: expected sip:NAME@REALM")
    name, realm = uri[4:].split("@")
    return check_name(name), check_realm(realm)
