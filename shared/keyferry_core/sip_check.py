"""What a SIP message must be before anybody acts on it (RFC 3261, sections 8.1.1, 8.2, 16.3, 20).

``check`` reads every field that has a grammar here, so that what passes has one meaning: a field
that may stand once stands once, no value is ambiguous, CSeq speaks of the request's own method.
Then it asks what any server asks: can the scheme be served (416), are the required extensions
known (420), is there a hop left (483). Fields without a grammar here pass unread.
"""

from keyferry_core.sip_codec import Message
from keyferry_core.sip_fields import (
    SipError,
    Via,
    address,
    check_comment,
    check_date,
    check_warning,
    cseq,
    is_call_id,
    is_token,
    media_type,
    number,
    params,
    parse_uri,
    split,
)

# Option tags that a Require or Proxy-Require may ask for.
EXTENSIONS = (b"path", b"outbound", b"gruu")

_MUST = (b"via", b"from", b"to", b"call-id", b"cseq")
_ONCE = (
    b"from to call-id cseq max-forwards content-length content-type content-disposition date "
    b"expires min-expires mime-version organization priority reply-to retry-after server subject "
    b"timestamp user-agent event refer-to referred-by session-expires min-se"
).split()
_ADDRESSES = (
    b"contact route record-route path service-route p-asserted-identity p-preferred-identity"
).split()
_ADDRESS = b"from to reply-to refer-to referred-by".split()
_TOKENS = b"allow require proxy-require supported unsupported content-encoding".split()
_SECONDS = b"expires min-expires".split()
_MAX_Q = 1000


def check(
    message: Message, extensions: tuple[bytes, ...] = EXTENSIONS, proxied: bool = False
) -> None:
    """Accept ``message``, or raise SipError with it: 400, 414, 416, 420 or 483.

    ``proxied``: it is handed on, so that only Proxy-Require is for us (RFC 3261, section 16.3).
    """
    try:
        _check_fields(message)
        if message.method:
            _check_request(message, extensions, proxied)
    except SipError as error:
        error.message = message
        raise


def _check_fields(message: Message) -> None:
    for name in _MUST:
        if message.first(name) is None:
            raise SipError(400, "without " + str(name, "utf-8"))
    seen = []
    for name, _, value in message.fields:
        if name in _ONCE:
            if name in seen:
                raise SipError(400, str(name, "utf-8") + " twice")
            seen.append(name)
        try:
            _check_value(name, value)
        except SipError as error:
            if error.sip_status == 400 and error.detail[:5] == "sip: ":
                raise SipError(400, str(name, "utf-8") + ": " + error.detail[5:])
            raise
    contacts = message.values(b"contact")
    if b"*" in contacts:
        # section 10.2.2: all bindings at once, and only to remove them
        if message.method != b"REGISTER" or len(contacts) != 1:
            raise SipError(400, "Contact: '*' with others, or not in a REGISTER")
        if number(message.first(b"expires") or b"", 0xFFFFFFFF, "Expires") != 0:
            raise SipError(400, "Contact: '*' without Expires: 0")


def _check_value(name: bytes, value: bytes) -> None:
    """One field's value against its grammar."""
    if name == b"via":
        for part in split(value, b","):
            Via(part)
    elif name in _ADDRESSES:
        if name == b"contact" and value == b"*":
            return
        for part in split(value, b","):
            found = address(part)
            if name == b"contact":
                _check_contact(found)
            elif part.find(b"<") < 0:
                raise SipError(400, "an address that should be in '<>'")
    elif name in _ADDRESS:
        tag = address(value).get(b"tag")
        if tag is not None and not is_token(tag):
            raise SipError(400, "an empty tag")
    elif name == b"call-id":
        if not is_call_id(value):
            raise SipError(400, "not a word, or two with '@'")
    elif name == b"cseq":
        cseq(value)
    elif name == b"max-forwards":
        number(value, 255)
    elif name in _SECONDS:
        number(value, 0xFFFFFFFF)
    elif name == b"content-type":
        media_type(value)
    elif name == b"accept":
        for part in split(value, b",") if value else ():
            media_type(part)
    elif name in _TOKENS:
        for part in split(value, b",") if value else ():
            if not is_token(part):
                raise SipError(400, "a tag that is no token")
    elif name == b"date":
        check_date(value)
    elif name == b"warning":
        for part in split(value, b","):
            check_warning(part)
    elif name == b"retry-after":
        _check_retry_after(value)


def _check_contact(found) -> None:
    expires = found.get(b"expires")
    if expires is not None:
        number(expires, 0xFFFFFFFF, "expires")
    q = found.get(b"q")
    if q is not None:
        digits = q.split(b".")
        if len(digits) > 2 or digits[0] not in (b"0", b"1") or len(digits[-1]) > 3:
            raise SipError(400, "a q that is not 0 to 1")
        if len(digits) == 2 and digits[1]:
            part = number(digits[1], _MAX_Q, "q")
            if part and digits[0] == b"1":
                raise SipError(400, "a q that is not 0 to 1")


def _check_retry_after(value: bytes) -> None:
    """Seconds, a comment, parameters (section 20.33)."""
    end = 0
    while end < len(value) and value[end] in b"0123456789":
        end += 1
    number(value[:end], 0xFFFFFFFF)
    rest = value[end:].strip(b" \t")
    if rest[:1] == b"(":
        rest = rest[check_comment(rest) :]
    params(rest)


def _check_request(message: Message, extensions: tuple[bytes, ...], proxied: bool) -> None:
    if cseq(message.first(b"cseq") or b"")[1] != message.method:
        raise SipError(400, "CSeq speaks of another method")
    uri = parse_uri(message.uri)
    if uri.headers:
        raise SipError(400, "header fields in the Request-URI")  # section 19.1.1
    if uri.scheme != b"sip" and uri.scheme != b"sips":
        raise SipError(416, "the scheme of the Request-URI")
    if message.method == b"REGISTER":
        if uri.user:
            raise SipError(400, "REGISTER: a user in the Request-URI")  # section 10.2
        scheme = address(message.first(b"to") or b"").uri.scheme
        if scheme != b"sip" and scheme != b"sips":
            raise SipError(400, "REGISTER: To is no SIP address")
    unknown = []
    for name in (b"proxy-require",) if proxied else (b"require", b"proxy-require"):
        # CANCEL and ACK are of a request that was asked already (section 8.2.2.3)
        if message.method != b"ACK" and message.method != b"CANCEL":
            for tag in message.values(name):
                if tag.lower() not in extensions:
                    unknown.append(tag)
    if unknown:
        error = SipError(420, "an extension that is not known here")
        error.unsupported = b", ".join(unknown)
        raise error
    # With no hop left a request is for us or for nobody; for us is what names no user.
    if uri.user and number(message.first(b"max-forwards") or b"70", 255) == 0:
        raise SipError(483, "no hop left")
