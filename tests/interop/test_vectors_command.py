"""``keyferry vectors``: published vectors pass on every runtime, and a wrong one never does."""

import copy
import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyferry_core import ccm, p256
from keyferry_hil.vectors import formats, run, runtimes
from keyferry_hil.vectors.model import VectorFileError
from support.vectors_command import ALL, FILES, TOTAL, VECTORS, document, keyferry, last_line, write


def held_to(files: list[dict[str, Any]]) -> None:
    """The rows of --json, added up for each file, against FILES."""
    sums: dict[str, list[int]] = {}
    for row in files:
        numbers = sums.setdefault(Path(row["file"]).stem, [0, 0, 0])
        for index, key in enumerate(("passed", "refused", "not_offered")):
            numbers[index] += row[key]
    assert {name: tuple(numbers) for name, numbers in sums.items()} == FILES


def test_all_files_pass_on_cpython():
    result = keyferry("--json", *ALL)
    answer = json.loads(result.stdout)
    assert (answer["passed"], answer["failed"], answer["failures"]) == (TOTAL, 0, [])
    assert answer["runtime"]["name"] == "cpython"
    held_to(answer["results"])
    # Every case of a Wycheproof file is one case here.
    for name in FILES:
        if name.startswith("wycheproof"):
            assert FILES[name][0] == document(name)["numberOfTests"]


def test_all_files_pass_in_a_micropython_with_the_default_heap():
    answer = json.loads(keyferry("--json", "--runtime", "micropython", *ALL).stdout)
    assert (answer["passed"], answer["failed"], answer["failures"]) == (TOTAL, 0, [])
    assert answer["runtime"]["name"] == "micropython"
    assert answer["runtime"]["version"].startswith("1.")
    assert answer["runtime"]["core"].endswith("keyferry_core/__init__.mpy")
    held_to(answer["results"])


def test_the_table_names_runtime_kinds_and_times():
    result = keyferry(*(path for path in ALL if "edhoc_rfc" in path.name or "cbor" in path.name))
    for text in ("FILE", "NOT OFFERED", "EDHOC key schedule", "EDHOC, invalid", "ms each"):
        assert text in result.stdout
    assert "not offered: edhoc_rfc9529.json, 7 of public keys, shared secrets" in result.stdout
    assert f"CPython {sys.version.split()[0]}" in result.stdout
    assert last_line(result) == "273 passed, 0 failed"


def set_at(place: str, value: Any) -> Callable[[Any], None]:
    """A change of a document: the value at a dotted place."""

    def change(node: Any) -> None:
        *way, last = place.split("/")
        for step in way:
            node = node[int(step)] if isinstance(node, list) else node[step]
        node[int(last) if isinstance(node, list) else last] = value

    return change


# A change to a file, and what must be said of it: case, expectation and what came out.
GROUP = "testGroups/0/tests/"
PLANTED = [
    (
        "wycheproof_ecdh_secp256r1_ecpoint",
        set_at(GROUP + "0/shared", "00" * 32),
        ("group 1, tcId 1", "normal case", "00" * 32, "53020d908b02"),
    ),
    (
        "wycheproof_ecdh_secp256r1_ecpoint",
        set_at(GROUP + "0/result", "invalid"),
        ("group 1, tcId 1", "expected: refused", "accepted: 53020d908b02"),
    ),
    (
        "wycheproof_ecdsa_secp256r1_sha256",
        set_at("testGroups/1/tests/1/result", "valid"),
        ("group 2, tcId 6", "expected: accepted", "came out: refused"),
    ),
    (
        "wycheproof_ecdsa_secp256r1_sha256_p1363",
        set_at(GROUP + "0/result", "invalid"),
        ("group 1, tcId 1", "signature malleability", "expected: refused", "accepted"),
    ),
    (
        "wycheproof_aes_ccm",
        set_at(GROUP + "0/tag", "00" * 16),
        ("group 1, tcId 1", "25d1a38495a7dea45bda049705627d10"),
    ),
    (
        "wycheproof_hkdf_sha256",
        set_at(GROUP + "0/okm", "ff"),
        ("group 1, tcId 1", "expected: ff", "came out: 3cb25f25faac"),
    ),
    (
        "wycheproof_hmac_sha256",
        set_at(GROUP + "0/tag", "ee" * 32),
        ("group 1, tcId 1", "ee" * 32, "b175b57d89ea"),
    ),
    (
        "rfc6979_p256_sha256",
        set_at("tests/1/k", "77"),
        ("test 2", "k = 77", "k = d16b6ae827f17175"),
    ),
    ("rfc6979_p256_sha256", set_at("uy", "77"), ("test 1", "test 2", "7903fe1008b8bc99")),
    (
        "aes_ccm_rfc3610_nist",
        set_at("tests/0/msg", "00" * 23),
        ("RFC3610 #1", "588c979a61c663d2"),
    ),
    ("cbor_appendix_a", set_at("tests/4/decoded", 25), ("test 5, 1818", "25", "24")),
    (
        "cbor_appendix_a",
        set_at("tests/47/diagnostic", '0("2013")'),
        ("test 48", '0("2013-03-21T20:04:00Z")'),
    ),
    (
        "cose_wg_subset",
        set_at("examples/sign1-tests~sign-pass-01/input/plaintext", "another"),
        ("sign-pass-01: Redo protected", b"another".hex(), b"This is the content.".hex()),
    ),
    (
        "cose_wg_subset",
        set_at("examples/sign1-tests~sign-pass-02/fail", True),
        ("sign-pass-02: External", "expected: refused", "accepted"),
    ),
    (
        "oscore_rfc8613",
        set_at("vectors/C.1.1/sender_key", "00" * 16),
        ("C.1.1 sender_key", "f0910ed7295e6ad4b54fc793154302ff"),
    ),
    (
        "oscore_rfc8613",
        set_at("vectors/C.7/ciphertext", "00"),
        ("C.7 ciphertext", "dbaad1e9a7e7b2a8"),
    ),
    (
        "edhoc_rfc9529",
        set_at("traces/trace_2_method3_suite2_ccs_kid/message_2/prk_2e_raw_value", "00" * 32),
        ("message_2/prk_2e_raw_value", "came out: 5aa0d69f3e3d1e0c"),
    ),
    (
        "edhoc_rfc9529",
        set_at("traces/trace_1_method0_suite0_x5t/message_3/k_3_raw_value", "00" * 16),
        ("trace_1_method0_suite0_x5t/message_3/k_3_raw_value", "da195e5f648ac63b"),
    ),
    (
        "edhoc_rfc9529",
        set_at("traces/trace_2_method3_suite2_ccs_kid/error/error_cbor_sequence", "0200"),
        ("error/error_cbor_sequence", "0202"),
    ),
    (
        "edhoc_p256_interop_x509",
        set_at("traces/5/message_3", "40"),
        ("trace 6", "run/message_3", "expected: 40"),
    ),
    (
        "edhoc_p256_interop_x509",
        set_at("traces/0/exporter_40000_32", "00" * 32),
        ("trace 1", "exporter_40000_32", "ef43cbc99d92a004"),
    ),
]


@pytest.mark.parametrize(("name", "change", "said"), PLANTED)
def test_a_wrong_expectation_fails_by_its_name(name, change, said, tmp_path):
    planted = document(name)
    # a slash in a key, as COSE's examples have
    text = json.dumps(planted).replace("sign1-tests/", "sign1-tests~")
    planted = json.loads(text)
    change(planted)
    result = keyferry(write(tmp_path, planted), code=1)
    assert "FAILED " in result.stdout
    assert "planted.json" in result.stdout
    for part in said:
        assert part in result.stdout, part
    assert int(last_line(result).split()[2]) > 0


@pytest.mark.parametrize(
    "name",
    [
        "edhoc_rfc9529",
        "edhoc_p256_interop_x509",
        "oscore_rfc8613",
        "rfc6979_p256_sha256",
        "aes_ccm_rfc3610_nist",
        "cbor_appendix_a",
    ],
)
def test_no_value_can_change_unnoticed(name):
    # All but what the core has no part in: X25519's and EdDSA's keys, CoAP, a CA behind the traces.
    foreign = re.compile(
        "trace_1.*(x|y|sk_.|pk_.)_raw_value|coap|oscore_option_value|ca_cert|ca_priv"
        "|C.6/(id_context|kid_context)|C.7/sender_id|^invalid/"
    )
    whole = document(name)
    places = [
        place for place in _hex_places(whole) if not foreign.search("/".join(map(str, place)))
    ]
    runtime = runtimes.InProcess()
    for place in random.Random(7).sample(places, min(16, len(places))):
        changed = copy.deepcopy(whole)
        node = changed
        for step in place[:-1]:
            node = node[step]
        digits = node[place[-1]]
        node[place[-1]] = digits[:-1] + ("1" if digits[-1] == "0" else "0")
        try:
            file = formats.parse(json.dumps(changed).encode(), name)
        except VectorFileError:
            continue
        assert run.run([file], runtime).failed, place


def _hex_places(node: Any, place: tuple = ()) -> list[tuple]:
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return [found for key, value in items for found in _hex_places(value, (*place, key))]
    if isinstance(node, str) and re.fullmatch("([0-9a-f]{2})+", node):
        return [place]
    return []


def test_a_broken_core_is_found(monkeypatch):
    path = VECTORS / "wycheproof_ecdsa_secp256r1_sha256_p1363.json"
    monkeypatch.setattr(p256, "verify", lambda *_: True)
    result = keyferry(path, code=1)
    assert last_line(result) == "173 passed, 89 failed"

    def crash(*_: object) -> bool:
        raise IndexError("out of range")

    monkeypatch.setattr(p256, "verify", crash)
    result = keyferry(path, code=1)
    assert last_line(result) == "0 passed, 262 failed"
    assert "came out: raised IndexError: out of range" in result.stdout
    monkeypatch.setattr(p256, "verify", lambda *_: "of another type")
    assert last_line(keyferry(path, code=1)) == "0 passed, 262 failed"


def _wycheproof(algorithm: str, group_type: str, test: dict[str, Any], **group: Any) -> Any:
    test = {"tcId": 1, "result": "valid", **test}
    groups = [{"type": group_type, **group, "tests": [test, {**test, "result": "invalid"}]}]
    return {"algorithm": algorithm, "testGroups": groups, "numberOfTests": 2}


ECDSA = {"msg": "00", "sig": "00"}
CCM = {"iv": "00" * 12, "msg": "", "ct": "", "tag": "00" * 16}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            _wycheproof("ECDH", "EcdhEcpointTest", {}, curve="secp384r1"),
            "curve secp384r1: the core has P-256",
        ),
        (_wycheproof("ECDH", "EcdhTest", {}, curve="brainpoolP256r1"), "curve brainpoolP256r1"),
        (_wycheproof("ECDH", "EcdhWebcryptoTest", {}), "groups of type EcdhWebcryptoTest"),
        (_wycheproof("XDH", "XdhComp", {}, curve="curve25519"), "groups of type XdhComp"),
        (
            _wycheproof("ECDSA", "EcdsaVerify", ECDSA, publicKey={"curve": "secp521r1"}),
            "curve secp521r1",
        ),
        (
            _wycheproof(
                "ECDSA",
                "EcdsaP1363Verify",
                ECDSA,
                publicKey={"curve": "secp256r1"},
                sha="SHA-512",
            ),
            "ECDSA with SHA-512",
        ),
        (
            _wycheproof("AES-CCM", "AeadTest", {"key": "00" * 32, **CCM}, keySize=256),
            "keys of 256 bits",
        ),
        (_wycheproof("AES-GCM", "AeadTest", {"key": "00" * 16, **CCM}), "AES-GCM: the core has"),
        (_wycheproof("HMACSHA512", "MacTest", {}), "HMACSHA512: the core has HMAC-SHA-256"),
        (_wycheproof("HKDF-SHA-1", "HkdfTest", {}), "HKDF-SHA-1: the core has HKDF-SHA-256"),
    ],
)
def test_what_the_core_does_not_have_is_said_and_not_counted(content, reason, tmp_path):
    path = write(tmp_path, content)
    result = keyferry(path)
    assert last_line(result) == "0 passed, 0 failed"
    assert f"not offered: planted.json, 2 of {reason}" in result.stdout
    assert "nothing was judged" in result.stderr
    answer = json.loads(keyferry("--json", path).stdout)
    assert answer["not_offered"] == 2
    assert reason in answer["reasons"][0]["reason"]


def test_sizes_of_ccm_are_judged_by_what_ccm_is(tmp_path):
    tests = []
    for number, (nonce, tag, result) in enumerate(
        [
            (7, 16, "valid"),
            (13, 8, "valid"),
            (12, 4, "acceptable"),
            (14, 16, "invalid"),
            (6, 16, "acceptable"),
            (0, 16, "invalid"),
            (12, 2, "invalid"),
            (12, 3, "acceptable"),
            (14, 16, "valid"),  # there is no such thing
        ]
    ):
        key, data = bytes(range(16)), b"data"
        sealed = bytes(4 + tag)
        if 7 <= nonce <= 13 and tag > 3:
            sealed = ccm.encrypt(key, bytes(nonce), b"", data, tag)
        tests.append(
            {
                **{"tcId": number, "result": result, "key": key.hex(), "iv": "00" * nonce},
                **{"msg": data.hex(), "ct": sealed[:4].hex(), "tag": sealed[4:].hex()},
            }
        )
    groups = [{"type": "AeadTest", "tests": [test]} for test in tests]
    content = {"algorithm": "AES-CCM", "testGroups": groups}
    answer = json.loads(keyferry("--json", write(tmp_path, content)).stdout)
    assert (answer["passed"], answer["results"][0]["refused"]) == (8, 5)
    assert answer["reasons"][0]["reason"].startswith("nonce of 14 bytes")


def test_fields_that_may_be_missing(tmp_path):
    hkdf = document("wycheproof_hkdf_sha256")
    (test,) = [
        test
        for group in hkdf["testGroups"]
        for test in group["tests"]
        if test["salt"] == "" and test["info"] == "" and test["size"] == 20
    ][:1]
    bare = {key: test[key] for key in ("ikm", "size", "okm", "result")}
    content = {
        "algorithm": hkdf["algorithm"],
        "testGroups": [{"type": "HkdfTest", "tests": [bare]}],
    }
    assert last_line(keyferry(write(tmp_path, content))) == "1 passed, 0 failed"
    content["testGroups"] = [{"tests": [{**bare, "extra": 5}]}]
    content["schema"] = "hkdf_test_schema_v1.json"
    assert last_line(keyferry(write(tmp_path, content))) == "1 passed, 0 failed"
    content["numberOfTests"] = 3
    assert "states 3 tests and holds 1" in keyferry(write(tmp_path, content)).stderr


def test_an_acceptable_result_must_be_the_right_one_or_none(tmp_path):
    spki = document("wycheproof_ecdh_secp256r1_spki_subset")
    tests = spki["testGroups"][0]["tests"]
    valid = next(test for test in tests if test["result"] == "valid")
    spki["testGroups"][0]["tests"] = [
        {**valid, "result": "acceptable"},
        {**valid, "result": "acceptable", "shared": "00" * 32, "tcId": 999},
    ]
    result = keyferry(write(tmp_path, spki), code=1)
    assert last_line(result) == "1 passed, 1 failed"
    assert "tcId 999" in result.stdout
    assert ", or refused" in result.stdout


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is not JSON"),
        ("not json", "is not JSON"),
        (DEEP, "nested too deeply"),
        ("{}", "is of a format that is not known here"),
        ("[]", "is of a format that is not known here"),
        ("7", "is of a format that is not known here"),
        ('{"testGroups": []}', "holds no tests"),
        ('{"testGroups": [{"type": "MacTest", "tests": []}]}', "holds no tests"),
        ('{"testGroups": 5}', "'testGroups' is not a list"),
        ('{"testGroups": [{"tests": [3]}]}', "testGroups[0].tests[0]: expected an object"),
        ('{"testGroups": [{"tests": [{}]}]}', "testGroups[0].tests[0]: no 'result'"),
        ('{"testGroups": [{"tests": [{"result": "so"}]}]}', "'result' is 'so'"),
        ('{"traces": {}}', "holds no tests"),
        ('{"traces": {"one": {}}}', "traces.one: no 'message_1'"),
        ('{"vectors": {"C": {"master_secret": "0"}}}', "'master_secret' is not bytes"),
        ('{"examples": {"a": {}}}', "examples.a: no 'input'"),
        ('{"x": "1", "ux": "1", "uy": "g", "tests": []}', "'uy' is not an integer"),
        ('{"tests": [{"hex": "00", "roundtrip": true}]}', "neither 'decoded' nor 'diagnostic'"),
        ('{"tests": [{"note": "\\ud800"}]}', "surrogate"),
    ],
)
def test_files_that_cannot_be_judged(content, said, tmp_path):
    path = write(tmp_path, content)
    result = keyferry(path, code=2)
    assert last_line(result) == "0 passed, 0 failed"
    assert str(path) in result.stderr
    assert said in result.stderr
    assert ("known formats: Wycheproof v1" in result.stderr) == ("not known" in said)


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path, tmp_path / "absent.json"):
        assert f"{path}: cannot be read" in keyferry(path, code=2).stderr
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not even UTF-8" in keyferry(binary, code=2).stderr


def test_one_bad_file_does_not_hide_the_others(tmp_path):
    bad = write(tmp_path, {"signalling": 1}, "unknown.json")
    good = VECTORS / "rfc6979_p256_sha256.json"
    result = keyferry(bad, good, code=2)
    assert last_line(result) == "2 passed, 0 failed"
    assert "unknown.json" in result.stderr
    failing = document("rfc6979_p256_sha256")
    failing["tests"][0]["r"] = "01"
    assert last_line(keyferry(bad, good, write(tmp_path, failing), code=1)) == "3 passed, 1 failed"
    answer = json.loads(keyferry("--json", bad, good, code=2).stdout)
    assert answer["problems"][0]["what"] == str(bad)


def test_files_of_other_shapes_in_known_formats(tmp_path):
    # cbor/test-vectors has a bare list, cose-wg/Examples one example in a file.
    bare = document("cbor_appendix_a")["tests"]
    assert last_line(keyferry(write(tmp_path, bare))) == "82 passed, 0 failed"
    example = document("cose_wg_subset")["examples"]["sign1-tests/sign-pass-01"]
    assert last_line(keyferry(write(tmp_path, example))) == "1 passed, 0 failed"
    for structure, algorithm in (("encrypted", "A128GCM"), ("sign0", "ES384")):
        name = {"encrypted": "aes-ccm-examples/aes-ccm-enc-01", "sign0": "sign1-tests/sign-fail-03"}
        other = document("cose_wg_subset")["examples"][name[structure]]
        other["input"][structure]["alg"] = algorithm
        other.pop("fail", None)
        if structure == "encrypted":
            message = bytes.fromhex(other["output"]["cbor"])
            other["output"]["cbor"] = message.replace(b"\xa1\x01\x0a", b"\xa1\x01\x01").hex()
        result = keyferry(write(tmp_path, other))
        assert last_line(result) == "1 passed, 0 failed"


def test_cbor_outside_of_the_subset_must_be_refused(tmp_path):
    tests = [
        {"hex": data, "roundtrip": True, "diagnostic": text}
        for data, text in (
            ("a2616200616100", '{"b": 0, "a": 0}'),
            ("a2000000ff", "{0: 0, 0: -1}"),
            ("1801", "1"),
            ("8181818181818181818100", "[[[[[[[[[[0]]]]]]]]]]"),
            ("a1f500", "{true: 0}"),
            ("a10102", "{1: 2}"),
        )
    ]
    answer = json.loads(keyferry("--json", write(tmp_path, {"tests": tests})).stdout)
    assert (answer["passed"], answer["results"][0]["refused"]) == (6, 5)


def test_invalid_edhoc_input_for_every_message(tmp_path):
    cases = [
        {"kind": f"invalid_{kind}", "name": kind, "hex": data}
        for kind in ("message_1", "message_2", "message_3", "message_4")
        for data in ("", "00", "40", "ff", "5820" + "00" * 32)
    ]
    cases += [
        {"kind": f"invalid_{kind}", "name": kind, "hex": data}
        for kind, data in (
            ("plaintext_2", "2741324800000000000000"),
            ("plaintext_3", "413248fa5efa2ebf920bf3"),
            ("plaintext_3", "2b"),
            ("plaintext_4", "60"),
            ("plaintext_4", "3901"),
            ("plaintext_4", "3a00010000"),  # a critical item that nobody knows
        )
    ]
    path = write(tmp_path, {"invalid": [*cases, {"kind": "invalid_ead", "hex": "00"}]})
    answer = json.loads(keyferry("--json", path).stdout)
    assert (answer["passed"], answer["not_offered"]) == (26, 1)
    # What is not invalid must not pass for it: an empty EAD_4, padding.
    good = [{"kind": "invalid_plaintext_4", "name": "good", "hex": data} for data in ("", "00")]
    result = keyferry(write(tmp_path, {"invalid": good}), code=1)
    assert last_line(result) == "0 passed, 2 failed"
