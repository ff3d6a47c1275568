"""Names of devices and realms, and the identity URI of a certificate (``sip:NAME@REALM``)."""

from keyferry_core.errors import DecodeError

MAX_NAME = 63
MAX_REALM = 128
# Between a gateway's name and the third party that it acts for, as in "gw-1 for alice".
FOR = " for "
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


def subject(name: str, on_behalf_of: str) -> str:
    """Who asks, as rules name it: ``name``, or ``name`` for a third party."""
    return name + FOR + on_behalf_of if on_behalf_of else name


def matches(selector: str, asking: str) -> bool:
    """Whether ``selector`` means ``asking``, both a name or ``NAME for NAME``; each name of the
    selector may have one ``*`` for any part. A selector without ``for`` never means a third party:
    what a gateway may do itself says nothing of those that it acts for.
    """
    wanted, found = selector.split(FOR), asking.split(FOR)
    if len(wanted) != len(found):
        return False
    for at in range(len(wanted)):
        if not _matches(wanted[at], found[at]):
            return False
    return True


def _matches(pattern: str, name: str) -> bool:
    if "*" not in pattern:
        return pattern == name
    head, tail = pattern.split("*", 1)
    return len(name) >= len(head) + len(tail) and name.startswith(head) and name.endswith(tail)
