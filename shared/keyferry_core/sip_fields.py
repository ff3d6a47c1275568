"""The values of SIP header fields (RFC 3261, section 25): URIs, addresses, parameters, numbers.

Every function takes one value as it stands behind the colon, unfolded, as bytes, and returns bytes
that are cut out of it: nothing is unescaped, so what is written again is what came. What is not of
the grammar is a SipError, status 400. Nothing here is lenient: where two readers could find two
names in one value, there is none.

Parameters are lists of ``(name, value)``: the name in lower case, the value None without ``=``, and
a quoted string with its quotes.
"""

from keyferry_core.errors import DecodeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from keyferry_core.sip_codec import Message

# Bounds: values in one comma list, parameters of one value, bytes of one URI.
MAX_VALUES = 64
MAX_PARAMS = 32
MAX_URI = 1024

_DIGITS = b"0123456789"
_HEX = b"0123456789abcdefABCDEF"
_ALPHANUM = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_TOKEN = _ALPHANUM + b"-.!%*_+`'~"
_WORD = _TOKEN + b'()<>:\\"/[]?{}'
_UNRESERVED = _ALPHANUM + b"-_.!~*'()"
_USER = _UNRESERVED + b"&=+$,;?/"
_PASSWORD = _UNRESERVED + b"&=+$,"
_URI_PARAM = _UNRESERVED + b"[]/:&+$"
_URI_HEADER = _UNRESERVED + b"[]/?:+$"
_URIC = _UNRESERVED + b";/?:@&=+$,[]"
_HOSTNAME = _ALPHANUM + b"-."
_LWS = b" \t"
_DAYS = b"Mon Tue Wed Thu Fri Sat Sun"
_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec"


class SipError(DecodeError):
    """A message that is refused with ``status``; the detail says why, in words for the log.

    ``message`` is the refused message as far as it could be read, None when it could not: what an
    answer repeats comes from there. ``unsupported`` are the option tags of a 420.
    """

    def __init__(self, status: int, detail: str) -> None:
        name = "malformed"
        if status == 513 or status == 414:
            name = "too-large"
        elif status in (415, 416, 420, 501, 505):
            name = "unsupported"
        super().__init__("sip: " + detail if isinstance(detail, str) else detail, name)
        self.sip_status = status
        self.message: Message | None = None
        self.unsupported: bytes = b""


def is_token(text: bytes) -> bool:
    """One or more characters of a token."""
    # strip leaves nothing when every byte is in the set: the one such test both runtimes do in C
    return bool(text) and not text.strip(_TOKEN)


def is_call_id(text: bytes) -> bool:
    """``word`` or ``word@word``."""
    parts = text.split(b"@")
    if len(parts) > 2:
        return False
    for part in parts:
        if not part or part.strip(_WORD):
            return False
    return True


def number(text: bytes, most: int, what: str = "") -> int:
    """Decimal digits with a value of at most ``most`` (leading zeros are let pass). ``what`` names
    it in the log."""
    if not text or text.strip(_DIGITS):
        raise SipError(400, "expected digits" + (what and " for " + what))
    text = text.lstrip(b"0") or b"0"
    if len(text) > 10 or int(text) > most:
        raise SipError(400, "a number out of range" + (what and ": " + what))
    return int(text)


def quoted_end(text: bytes, start: int) -> int:
    """Where the quoted string that opens at ``start`` has ended: the place after its quote."""
    pos = start + 1
    while True:
        close = text.find(b'"', pos)
        if close < 0:
            raise SipError(400, "a quoted string without an end")
        back = text.find(b"\\", pos, close)
        if back < 0:
            return close + 1
        if text[back + 1] > 0x7F:
            raise SipError(400, "a quoted pair beyond ASCII")
        pos = back + 2


def split(text: bytes, mark: bytes) -> list[bytes]:
    """The parts of ``text`` between ``mark`` (one byte) outside quoted strings and ``<>``, each
    without white space around. An empty part is refused."""
    parts = []
    if text.find(b'"') < 0 and text.find(b"<") < 0:
        for part in text.split(mark, MAX_VALUES + 1):
            parts.append(part.strip(_LWS))
    else:
        start = pos = 0
        end = len(text)
        code = mark[0]
        while pos < end:
            byte = text[pos]
            if byte == 0x22:
                pos = quoted_end(text, pos)
                continue
            if byte == 0x3C:
                pos = text.find(b">", pos)
                if pos < 0:
                    raise SipError(400, "'<' without '>'")
            elif byte == code:
                if len(parts) > MAX_VALUES:
                    break
                parts.append(text[start:pos].strip(_LWS))
                start = pos + 1
            pos += 1
        parts.append(text[start:].strip(_LWS))
    if len(parts) > MAX_VALUES:
        raise SipError(400, "too many values in one field")
    for part in parts:
        if not part:
            raise SipError(400, "an empty value")
    return parts


def params(text: bytes) -> list[tuple[bytes, bytes | None]]:
    """Parameters behind a value: ``;name``, ``;name=value``, or nothing (section 7.3.1)."""
    text = text.strip(_LWS)
    found: list[tuple[bytes, bytes | None]] = []
    if not text:
        return found
    if text[0] != 0x3B:
        raise SipError(400, "something behind a value that is no parameter")
    for part in split(text[1:], b";"):
        name, value = part, None
        equals = part.find(b"=")
        if equals >= 0:
            name = part[:equals].rstrip(_LWS)
            value = part[equals + 1 :].lstrip(_LWS)
            if value[:1] == b'"':
                if quoted_end(value, 0) != len(value):
                    raise SipError(400, "something behind a quoted string")
            elif not is_token(value) and not _is_ipv6(
                value
            ):  # received=2001:db8::1 has no brackets
                _host(value)
        if not is_token(name):
            raise SipError(400, "a parameter's name")
        _add(found, name.lower(), value)
    return found


def _add(found: list[tuple[bytes, bytes | None]], name: bytes, value: bytes | None) -> None:
    if len(found) == MAX_PARAMS:
        raise SipError(400, "too many parameters")
    for other, _ in found:
        if other == name:
            raise SipError(400, "a parameter twice")  # section 7.3.1
    found.append((name, value))


def param(found: list[tuple[bytes, bytes | None]], name: bytes) -> bytes | None:
    """The value of the parameter ``name``: b"" when it has none, None when it is not there."""
    for other, value in found:
        if other == name:
            return b"" if value is None else value
    return None


# -- URIs ------------------------------------------------------------------------------------


class Uri:
    """A URI in its parts (section 19.1.1). ``scheme`` and ``host`` are in lower case.

    Of schemes other than sip and sips only ``scheme`` and ``rest`` are known; ``host`` is empty.
    """

    def __init__(self, scheme: bytes, rest: bytes) -> None:
        self.scheme = scheme
        self.rest = rest
        self.user: bytes = b""
        self.password: bytes | None = None
        self.host: bytes = b""
        self.port = 0  # 0: none was written
        self.params: list[tuple[bytes, bytes | None]] = []
        self.headers: bytes = b""


def parse_uri(text: bytes) -> Uri:
    """A SIP, SIPS or other absolute URI."""
    if len(text) > MAX_URI:
        raise SipError(414, "a URI of more than 1024 bytes")
    colon = text.find(b":")
    scheme = text[:colon].lower()
    if colon < 1 or scheme[0] in b"0123456789+-." or scheme.strip(_ALPHANUM + b"+-."):
        raise SipError(400, "a URI without a scheme")
    uri = Uri(scheme, text[colon + 1 :])
    rest = uri.rest
    if scheme != b"sip" and scheme != b"sips":
        if not rest:
            raise SipError(400, "an empty URI")
        _escaped(rest, _URIC, "a URI's character")
        return uri
    # An '@' may stand in no other part, so it ends the user.
    at = rest.find(b"@")
    if at >= 0:
        user, rest = rest[:at], rest[at + 1 :]
        colon = user.find(b":")
        if colon >= 0:
            uri.password = user[colon + 1 :]
            user = user[:colon]
            _escaped(uri.password, _PASSWORD, "a URI's password")
        if not user:
            raise SipError(400, "a URI with an empty user")
        _escaped(user, _USER, "a URI's user")
        uri.user = user
    question = rest.find(b"?")
    if question >= 0:
        uri.headers = rest[question + 1 :]
        rest = rest[:question]
        for pair in uri.headers.split(b"&", MAX_PARAMS):
            equals = pair.find(b"=")
            if equals < 1:
                raise SipError(400, "a URI's header")
            _escaped(pair[:equals], _URI_HEADER, "a URI's header")
            _escaped(pair[equals + 1 :], _URI_HEADER, "a URI's header")
    parts = rest.split(b";", MAX_PARAMS + 1)
    uri.host, uri.port = host_port(parts[0])
    for part in parts[1:]:
        equals = part.find(b"=")
        name = part if equals < 0 else part[:equals]
        value = None if equals < 0 else part[equals + 1 :]
        if not name or value == b"":
            raise SipError(400, "an empty parameter of a URI")
        _escaped(name, _URI_PARAM, "a URI's parameter")
        if value is not None:
            _escaped(value, _URI_PARAM, "a URI's parameter")
        _add(uri.params, name.lower(), value)
    return uri


def _escaped(text: bytes, allowed: bytes, what: str) -> None:
    """Characters of ``allowed``, and ``%`` with two hexadecimal digits."""
    if not text.strip(allowed):
        return
    for index, part in enumerate(text.split(b"%")):
        if index:
            if len(part) < 2 or part[:2].strip(_HEX):
                raise SipError(400, what + ": '%' without two digits")
            part = part[2:]
        if part.strip(allowed):
            raise SipError(400, what + " is not allowed")


def unescape(text: bytes) -> bytes:
    """``%XX`` made one byte each. Only of what was parsed."""
    parts = text.split(b"%")
    out = parts[0]
    for part in parts[1:]:
        out += bytes((int(part[:2], 16),)) + part[2:]
    return out


def host_port(text: bytes) -> tuple[bytes, int]:
    """``(host in lower case, port)`` of ``host[:port]``; port 0 when none is written."""
    port = 0
    colon = text.rfind(b":")
    if colon > text.rfind(b"]"):
        port = number(text[colon + 1 :].strip(_LWS), 65535, "a port")
        if not port:
            raise SipError(400, "port 0")
        text = text[:colon].rstrip(_LWS)
    return _host(text), port


def _host(text: bytes) -> bytes:
    """A host name, an IPv4 address or an IPv6 reference, in lower case."""
    if text[:1] == b"[":
        if text[-1:] != b"]" or not _is_ipv6(text[1:-1]):
            raise SipError(400, "an IPv6 address")
        return text.lower()
    if not text or len(text) > 255 or text.strip(_HOSTNAME):
        raise SipError(400, "a host")
    labels = (text[:-1] if text[-1] == 0x2E else text).split(b".")
    for label in labels:
        if not label or label[0] == 0x2D or label[-1] == 0x2D:
            raise SipError(400, "a host's label")
    if labels[-1][0] in _DIGITS and not _is_ipv4(text):  # the top label starts with a letter
        raise SipError(400, "an IPv4 address")
    return text.lower()


def _is_ipv4(text: bytes) -> bool:
    parts = text.split(b".")
    if len(parts) != 4:
        return False
    for part in parts:
        if not 1 <= len(part) <= 3 or part.strip(_DIGITS) or int(part) > 255:
            return False
    return True


def _is_ipv6(text: bytes) -> bool:
    """RFC 3986, section 3.2.2."""
    halves = text.split(b"::")
    if len(halves) > 2:
        return False
    count = 0
    for half in halves:
        if not half:
            if len(halves) == 1:
                return False
            continue
        groups = half.split(b":")
        for index, group in enumerate(groups):
            if group.find(b".") >= 0:
                if half is not halves[-1] or index != len(groups) - 1 or not _is_ipv4(group):
                    return False
                count += 2
            elif not 1 <= len(group) <= 4 or group.strip(_HEX):
                return False
            else:
                count += 1
    return count == 8 if len(halves) == 1 else count < 8


# -- fields ----------------------------------------------------------------------------------


class Address:
    """A name-addr or addr-spec with its parameters: ``display`` as written, ``uri`` in its parts
    and ``raw``, the URI as written."""

    def __init__(self, display: bytes, raw: bytes, tail: bytes) -> None:
        self.display = display
        self.raw = raw
        self.uri = parse_uri(raw)
        self.params = params(tail)

    def get(self, name: bytes) -> bytes | None:
        """A parameter of the field, not of the URI."""
        return param(self.params, name)


def address(text: bytes) -> Address:
    """From, To, Contact, Route and their like (sections 20.10 and 25.1).

    Without ``<>`` what follows a semicolon belongs to the field, and a URI with a comma or a
    question mark is refused.
    """
    text = text.strip(_LWS)
    display = b""
    start = 0
    if text[:1] == b'"':
        start = quoted_end(text, 0)
        display = text[:start]
        while text[start : start + 1].strip(_LWS) == b"" and start < len(text):
            start += 1
        if text[start : start + 1] != b"<":
            raise SipError(400, "a display name without '<'")
    else:
        opened = text.find(b"<")
        semicolon = text.find(b";")
        if opened >= 0 and (semicolon < 0 or opened < semicolon):
            display = text[:opened].strip(_LWS)
            for word in display.split():
                if not is_token(word):
                    raise SipError(400, "a display name that should be in quotes")
            start = opened
        else:
            raw = text if semicolon < 0 else text[:semicolon].rstrip(_LWS)
            if raw.find(b"?") >= 0 or raw.find(b",") >= 0:
                raise SipError(400, "a URI that should be in '<>'")
            return Address(b"", raw, b"" if semicolon < 0 else text[semicolon:])
    close = text.find(b">", start)
    if close < 0:
        raise SipError(400, "'<' without '>'")
    return Address(display, text[start + 1 : close], text[close + 1 :])


class Via:
    """One hop: ``transport`` in upper case, ``host``, ``port`` (0: none), ``params``."""

    def __init__(self, text: bytes) -> None:
        semicolon = text.find(b";")
        sent = text if semicolon < 0 else text[:semicolon]
        parts = sent.split(b"/")
        if len(parts) != 3 or parts[0].strip(_LWS).upper() != b"SIP":
            raise SipError(400, "expected SIP/2.0/TRANSPORT")
        if parts[1].strip(_LWS) != b"2.0":
            raise SipError(400, "another version")
        # transport LWS sent-by; white space may stand around the colon of the port
        words = parts[2].split()
        if len(words) < 2 or not is_token(words[0]):
            raise SipError(400, "transport and sent-by")
        self.transport = words[0].upper()
        sent_by = b" ".join(words[1:])
        self.host, self.port = host_port(sent_by.replace(b" :", b":").replace(b": ", b":"))
        self.params = params(b"" if semicolon < 0 else text[semicolon:])
        branch = param(self.params, b"branch")
        if branch is not None and (not is_token(branch) or branch.lower() == b"z9hg4bk"):
            raise SipError(400, "a branch that identifies nothing")

    def get(self, name: bytes) -> bytes | None:
        """A parameter."""
        return param(self.params, name)


def cseq(text: bytes) -> tuple[int, bytes]:
    """``(number below 2**31, method)`` (section 8.1.1.5)."""
    words = text.split()
    if len(words) != 2 or not is_token(words[1]):
        raise SipError(400, "a number and a method")
    return number(words[0], 0x7FFFFFFF), words[1]


def media_type(text: bytes) -> bytes:
    """``type/subtype`` in lower case; parameters are checked and left out (section 20.15)."""
    semicolon = text.find(b";")
    parts = (text if semicolon < 0 else text[:semicolon]).split(b"/")
    if len(parts) != 2:
        raise SipError(400, "a media type")
    for part in parts:
        if not is_token(part.strip(_LWS)):
            raise SipError(400, "a media type")
    params(b"" if semicolon < 0 else text[semicolon:])
    return (parts[0].strip(_LWS) + b"/" + parts[1].strip(_LWS)).lower()


def check_date(text: bytes) -> None:
    """An RFC 1123 date, which is always in GMT (section 20.17)."""
    good = len(text) == 29 and text[3:5] == b", " and text[25:] == b" GMT"
    for at in (7, 11, 16):
        good = good and text[at : at + 1] == b" "
    for at in (19, 22):
        good = good and text[at : at + 1] == b":"
    if not good or text[:3] not in _DAYS.split() or text[8:11] not in _MONTHS.split():
        raise SipError(400, "not a date of RFC 1123 in GMT")
    for at, width, most in ((5, 2, 31), (12, 4, 9999), (17, 2, 23), (20, 2, 59), (23, 2, 60)):
        number(text[at : at + width], most)


def check_warning(text: bytes) -> None:
    """Three digits, an agent and a quoted text (section 20.43)."""
    words = text.split(None, 2)
    if len(words) != 3 or len(words[0]) != 3 or words[0].strip(_DIGITS):
        raise SipError(400, "a code of three digits, an agent, a text")
    if words[2][:1] != b'"' or quoted_end(words[2], 0) != len(words[2]):
        raise SipError(400, "the text is a quoted string")


def check_comment(text: bytes, start: int = 0) -> int:
    """The place after the comment that opens at ``start``. Comments nest, to a depth of 8."""
    depth = 0
    pos = start
    while pos < len(text):
        byte = text[pos]
        if byte == 0x5C:
            pos += 1
        elif byte == 0x28:
            depth += 1
            if depth > 8:
                raise SipError(400, "comments too deep")
        elif byte == 0x29:
            depth -= 1
            if not depth:
                return pos + 1
        pos += 1
    raise SipError(400, "a comment without an end")
