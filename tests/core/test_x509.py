# heap: 1m
from keyferry_core import der, x509
from keyferry_core.errors import AuthenticationError, DecodeError
from keyferry_core.suite import Crypto
from support.portable import raises, vectors

DATA = vectors("certificates")
# Verifying needs no randomness; asking for some would be a fault.
CRYPTO = Crypto(None)


def certificate(label):
    return x509.parse(bytes.fromhex(DATA["certificates"][label]["der"]))


def dotted(oid):
    """The dotted form of an OID's content, for those whose first two arcs are below 2.40."""
    arcs = [min(oid[0] // 40, 2)]
    arcs.append(oid[0] - 40 * arcs[0])
    value = 0
    for byte in oid[1:]:
        value = value << 7 | (byte & 0x7F)
        if byte < 0x80:
            arcs.append(value)
            value = 0
    return ".".join([str(arc) for arc in arcs])


def test_each_certificate_reads_as_a_second_library_reads_it():
    for label, row in DATA["certificates"].items():
        encoded = bytes.fromhex(row["der"])
        got = x509.parse(encoded)
        assert got.raw == encoded
        for field in ("tbs", "issuer", "subject", "public_key", "signature"):
            assert getattr(got, field).hex() == row[field], (label, field)
        assert list(got.uris) == row["uris"], label
        for field in ("not_before", "not_after", "is_ca", "path_length"):
            assert getattr(got, field) == row[field], (label, field)
        for field in ("key_usage", "unknown_critical", "common_name"):
            assert getattr(got, field) == row[field], (label, field)
        assert got.serial == int(row["serial"], 16)
        assert [dotted(oid) for oid in got.ext_key_usage] == row["ext_key_usage"], label
    assert len(DATA["certificates"]) == 36


def test_keys_and_signatures_of_another_kind_are_refused():
    for label, encoded in DATA["refused"].items():
        error = raises(DecodeError, x509.parse, bytes.fromhex(encoded))
        # A P-256 certificate with a signature of 768 bits contradicts itself.
        contradicts = label == "a P-256 key signed by P-384"
        assert error.name == ("malformed" if contradicts else "key-not-allowed"), label
    assert len(DATA["refused"]) == 5


def test_only_a_ca_that_may_can_have_issued_a_certificate():
    for label, issuer, reason in DATA["verify"]:
        subject = certificate(label)
        if not reason:
            x509.verify(CRYPTO, subject, certificate(issuer))
            continue
        error = raises(AuthenticationError, x509.verify, CRYPTO, subject, certificate(issuer))
        assert error.name == "authentication-failed"
        assert reason in error.detail, (label, issuer, error.detail)
    assert len(DATA["verify"]) == 17


def test_what_was_signed_cannot_be_changed():
    subject = certificate("pump-7")
    issuing = certificate("issuing")
    changed = subject.tbs.replace(b"pump-7@plant", b"pump-8@plant")
    assert changed != subject.tbs
    forged = x509.parse(subject.raw.replace(subject.tbs, changed))
    assert x509.check_device(forged, "plant.example", DATA["now"]) == "pump-8"
    error = raises(AuthenticationError, x509.verify, CRYPTO, forged, issuing)
    assert "does not verify" in error.detail


def test_a_device_is_named_by_its_one_uri_and_nothing_else():
    for label, later, name, reason in DATA["device"]:
        subject = certificate(label)
        now = DATA["now"] + later
        if name:
            assert x509.check_device(subject, DATA["realm"], now) == name
            continue
        error = raises(AuthenticationError, x509.check_device, subject, DATA["realm"], now)
        assert error.name == "authentication-failed"
        assert reason in error.detail, (label, error.detail)
    assert len(DATA["device"]) == 23


def test_the_x5t_of_a_certificate():
    # The trace has it inside ID_CRED_I, {34: [-15, h'...']}.
    data = vectors("edhoc_p256_interop_x509")
    text = str(data["traces"][0])
    for label in ("cert_i", "cert_r"):
        encoded = bytes.fromhex(data[label])
        assert "a11822822e48" + x509.fingerprint_64(encoded).hex() in text
    for label in ("ca_cert", "cert_i", "cert_r"):
        x509.parse(bytes.fromhex(data[label]))


# A certificate put together from parts, to have each part wrong.

KEY = bytes.fromhex(DATA["certificates"]["pump-7"]["public_key"])
VERSION = b"\xa0\x03\x02\x01\x02"
SERIAL = b"\x02\x01\x05"
NAME = der.wrap(
    der.SEQUENCE,
    der.wrap(der.SET, der.wrap(der.SEQUENCE, b"\x06\x03\x55\x04\x03", der.wrap(0x0C, b"pump-7"))),
)
VALIDITY = der.wrap(
    der.SEQUENCE, der.wrap(0x17, b"260101000000Z"), der.wrap(0x17, b"260401000000Z")
)
SIGNATURE = der.wrap(der.BIT_STRING, b"\x00", der.encode_signature(bytes(range(64))))
PARTS = [VERSION, SERIAL, der.ECDSA_SHA256, NAME, VALIDITY, NAME, der.public_key_info(KEY), b""]


def build(parts, algorithm=der.ECDSA_SHA256, signature=SIGNATURE, after=b""):
    tbs = der.wrap(der.SEQUENCE, b"".join(parts))
    return der.wrap(der.SEQUENCE, tbs, algorithm, signature, after)


def with_part(index, part):
    parts = list(PARTS)
    parts[index] = part
    return build(parts)


def extension(kind, value, critical=b""):
    return der.wrap(
        der.SEQUENCE, der.wrap(der.OID, kind), critical, der.wrap(der.OCTET_STRING, value)
    )


def with_extensions(*extensions):
    return with_part(7, der.wrap(0xA3, der.wrap(der.SEQUENCE, *extensions)))


def refused(encoded, reason):
    error = raises(DecodeError, x509.parse, encoded)
    assert reason in error.detail, error.detail


def test_the_parts_make_a_certificate():
    got = x509.parse(build(PARTS))
    assert got.serial == 5
    assert got.common_name == "pump-7"
    assert got.public_key == KEY
    assert got.signature == bytes(range(64))
    assert (got.key_usage, got.ext_key_usage, got.uris, got.is_ca) == (None, (), (), False)


def test_parts_that_are_missing_changed_or_left_over():
    for index in range(7):
        raises(DecodeError, x509.parse, with_part(index, b""))
        raises(DecodeError, x509.parse, with_part(index, b"\x05\x00"))
        raises(DecodeError, x509.parse, with_part(index, PARTS[index] + PARTS[index]))
    refused(with_part(0, b"\xa0\x03\x02\x01\x01"), "version 3")
    refused(with_part(0, b"\xa0\x03\x02\x01\x03"), "version 3")
    refused(with_part(1, b"\x02\x01\x00"), "serial number 0")
    refused(with_part(1, b"\x02\x01\x85"), "negative")
    refused(with_part(1, b"\x02\x15" + b"\x01" * 21), "huge")
    refused(with_part(7, b"\x81\x02\x00\x01"), "another tag")  # issuerUniqueID
    refused(build(PARTS) + b"\x00", "left over")
    refused(build(PARTS, after=b"\x05\x00"), "left over")
    refused(b"", "cut short")
    assert raises(DecodeError, x509.parse, bytes(2049)).name == "too-large"


def test_both_algorithm_fields_say_ecdsa_with_sha256():
    rsa = bytes.fromhex("300d06092a864886f70d01010b0500")
    with_null = bytes.fromhex("300c06082a8648ce3d0403020500")
    sha384 = bytes.fromhex("300a06082a8648ce3d040303")
    for algorithm in (rsa, with_null, sha384):
        for encoded in (with_part(2, algorithm), build(PARTS, algorithm=algorithm)):
            assert raises(DecodeError, x509.parse, encoded).name == "key-not-allowed"
    key = bytes.fromhex("301a300d06092a864886f70d01010105000309003006020103020103")
    assert raises(DecodeError, x509.parse, with_part(6, key)).name == "key-not-allowed"


def test_signatures_are_der_in_whole_bytes():
    value = der.encode_signature(bytes(range(64)))
    for content in (b"", b"\x00", b"\x01" + value, b"\x00" + value + b"\x00", value):
        raises(DecodeError, x509.parse, build(PARTS, signature=der.wrap(der.BIT_STRING, content)))


def test_dates_that_are_out_of_order():
    swapped = der.wrap(0x17, b"260401000001Z"), der.wrap(0x17, b"260401000000Z")
    refused(with_part(4, der.wrap(der.SEQUENCE, *swapped)), "ends before it starts")
    refused(with_part(4, der.wrap(der.SEQUENCE, *swapped[:1])), "expected a time")


def test_names_in_all_their_kinds():
    def common(*values):
        sets = []
        for tag, text in values:
            attribute = der.wrap(der.SEQUENCE, b"\x06\x03\x55\x04\x03", der.wrap(tag, text))
            sets.append(der.wrap(der.SET, attribute))
        return with_part(5, der.wrap(der.SEQUENCE, *sets))

    assert x509.parse(common((0x0C, "ü".encode()))).common_name == "ü"
    assert x509.parse(common((0x13, b"pump"))).common_name == "pump"
    assert x509.parse(common((0x16, b"p@b"))).common_name == "p@b"
    assert x509.parse(common((0x0C, b"a"), (0x0C, b"b"))).common_name is None
    assert x509.parse(common()).common_name is None
    refused(common((0x0C, b"\xc0\xaf")), "UTF-8")
    refused(common((0x0C, b"\xed\xa0\x80")), "UTF-8")
    refused(common((0x13, b"a\x00")), "printable")
    refused(common((0x13, b"\xfc")), "printable")
    refused(common((0x16, b"\xfc")), "printable")
    for char in b'*@_"':
        refused(common((0x13, bytes((char,)))), "PrintableString")
    for tag in (0x14, 0x1C, 0x1E, 0x04, 0x30):  # Teletex, Universal, BMP, and no text at all
        refused(common((tag, b"\x00\x00\x00p")), "today's kinds")
    refused(with_part(5, der.wrap(der.SEQUENCE, der.wrap(der.SET))), "empty set")

    one = der.wrap(der.SEQUENCE, b"\x06\x03\x55\x04\x03", der.wrap(0x0C, b"a"))
    two = der.wrap(der.SEQUENCE, b"\x06\x03\x55\x04\x0a", der.wrap(0x0C, b"b"))
    x509.parse(with_part(5, der.wrap(der.SEQUENCE, der.wrap(der.SET, one, two))))
    refused(with_part(5, der.wrap(der.SEQUENCE, der.wrap(der.SET, two, one))), "out of order")
    refused(with_part(5, der.wrap(der.SEQUENCE, der.wrap(der.SET, one, one))), "out of order")
    long = der.wrap(der.SEQUENCE, b"\x06\x03\x55\x04\x0a", der.wrap(0x0C, b"b"), b"\x05\x00")
    refused(with_part(5, der.wrap(der.SEQUENCE, der.wrap(der.SET, long))), "left over")


def test_no_list_can_end_early_at_a_zero_byte():
    # 00 00 is BER's mark for an end; bytes after it would be read by some and not by others.
    zeros = b"\x00\x00"
    one = der.wrap(der.SEQUENCE, b"\x06\x03\x55\x04\x03", der.wrap(0x0C, b"a"))
    for name in (
        der.wrap(der.SEQUENCE, zeros),
        der.wrap(der.SEQUENCE, der.wrap(der.SET, one) + zeros),
        der.wrap(der.SEQUENCE, der.wrap(der.SET, one + zeros)),
        der.wrap(der.SEQUENCE, der.wrap(der.SET, zeros)),
    ):
        refused(with_part(5, name), "end mark")
    refused(with_part(7, zeros), "end mark")
    usage = extension(b"\x55\x1d\x0f", b"\x03\x02\x07\x80")
    raises(DecodeError, x509.parse, with_extensions(usage, zeros))
    for kind, value in (
        (b"\x55\x1d\x13", der.wrap(der.SEQUENCE, b"\x01\x01\xff" + zeros)),
        (b"\x55\x1d\x25", der.wrap(der.SEQUENCE, b"\x06\x01\x2a" + zeros)),
        (b"\x55\x1d\x11", der.wrap(der.SEQUENCE, b"\x86\x01a" + zeros)),
        (b"\x55\x1d\x0f", b"\x03\x02\x07\x80" + zeros),
    ):
        raises(DecodeError, x509.parse, with_extensions(extension(kind, value)))


def test_extensions_are_read_strictly():
    usage = extension(b"\x55\x1d\x0f", b"\x03\x02\x07\x80")
    assert x509.parse(with_extensions(usage)).key_usage == x509.DIGITAL_SIGNATURE
    refused(with_extensions(usage, usage), "twice")
    refused(with_extensions(), "empty")
    many = [extension(b"\x2a\x03" + bytes((n,)), b"") for n in range(1, 18)]
    refused(with_extensions(*many), "too many")
    x509.parse(with_extensions(*many[:16]))
    refused(with_extensions(extension(b"\x2a\x03", b"", b"\x01\x01\x00")), "TRUE")
    refused(with_extensions(extension(b"\x2a\x03", b"", b"\x01\x01\x01")), "TRUE")
    for kind in (b"\x55\x1d\x0f", b"\x55\x1d\x11", b"\x55\x1d\x13", b"\x55\x1d\x25"):
        for value in (b"", b"\x05\x00", b"\x30\x00\x00", b"\x30\x80\x00\x00"):
            raises(DecodeError, x509.parse, with_extensions(extension(kind, value)))
    # Both wrappers hold one thing each.
    refused(with_part(7, der.wrap(0xA3, der.wrap(der.SEQUENCE, usage), b"\x05\x00")), "left over")
    padded = der.wrap(der.SEQUENCE, usage[2:], b"\x05\x00")
    refused(with_extensions(padded), "left over")


def test_basic_constraints_leave_defaults_out():
    def parse(text):
        return x509.parse(with_extensions(extension(b"\x55\x1d\x13", bytes.fromhex(text))))

    assert (parse("3000").is_ca, parse("3000").path_length) == (False, None)
    assert (parse("30030101ff").is_ca, parse("30030101ff").path_length) == (True, None)
    assert parse("30060101ff020100").path_length == 0
    assert parse("30060101ff02017f").path_length == 127
    for text in (
        "3003010100",  # the default, written out
        "3003020100",  # a limit without a CA
        "30060101ff0201ff",
        "30070101ff02020080",
        "30080101ff0201000500",
        "30060201000101ff",
    ):
        raises(DecodeError, parse, text)


def test_key_purposes_and_names_are_bounded_and_never_empty():
    def purposes(*oids):
        value = der.wrap(der.SEQUENCE, *[der.wrap(der.OID, oid) for oid in oids])
        return with_extensions(extension(b"\x55\x1d\x25", value))

    assert x509.parse(purposes(b"\x2a\x03", b"\x2a\x04")).ext_key_usage == (
        b"\x2a\x03",
        b"\x2a\x04",
    )
    raises(DecodeError, x509.parse, purposes())
    refused(purposes(*[b"\x2a\x03"] * 9), "too many")

    def uris(*names):
        return with_extensions(extension(b"\x55\x1d\x11", der.wrap(der.SEQUENCE, *names)))

    one = der.wrap(0x86, b"sip:a@b")
    assert x509.parse(uris(one, der.wrap(0x82, b"x"), one)).uris == ("sip:a@b", "sip:a@b")
    refused(uris(), "no, too many")
    refused(uris(*[one] * 9), "no, too many")
    for tag in (0x80, 0x89, 0xA6, 0x06, 0x1F, 0xA1):
        raises(DecodeError, x509.parse, uris(der.wrap(tag, b"")))
    for text in (b"sip:a\x00@b", b"sip:\xc3\xbc@b", b"sip:a@b\n"):
        refused(uris(der.wrap(0x86, text)), "printable")


def test_every_cut_and_every_changed_byte_is_refused_or_read_as_something_else():
    row = DATA["certificates"]["pump-7"]
    encoded = bytes.fromhex(row["der"])
    for cut in range(len(encoded)):
        raises(DecodeError, x509.parse, encoded[:cut])
    for index in range(len(encoded)):
        for byte in (0, 1, 0x30, 0x7F, 0x80, 0xFF, encoded[index] ^ 1, encoded[index] ^ 0x80):
            changed = bytearray(encoded)
            changed[index] = byte
            try:
                got = x509.parse(bytes(changed))
                x509.check_device(got, DATA["realm"], DATA["now"])
            except (DecodeError, AuthenticationError):
                pass
