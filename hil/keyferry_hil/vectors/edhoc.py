"""EDHOC traces: those of RFC 9529 with every intermediate value, and the ones of our interop runs.

A trace is judged twice. Each value of the key schedule is computed from the trace's inputs alone,
so a wrong one in the file is found by its name. And Initiator and Responder are run against each
other on the trace's ephemeral keys, so that their messages and keys are held to it.
"""

import re
from typing import Any

from keyferry_core import cbor
from keyferry_core.errors import DecodeError
from keyferry_hil.vectors.fields import Node
from keyferry_hil.vectors.model import (
    RIGHT,
    Answer,
    Check,
    Judge,
    NotOffered,
    Question,
    VectorFile,
    Verdict,
    exactly,
    failed,
    part,
    refused,
)

# Suite: bytes of its MAC, and whether its curve and signatures are the core's. Suites 0 and 1 are
# 2 and 3 with X25519 and EdDSA; their hash and AEAD are the same.
_SUITES = {0: (8, False), 1: (16, False), 2: (8, True), 3: (16, True)}
_KEYS, _RUN, _REFUSED = "EDHOC key schedule", "EDHOC run", "EDHOC, invalid"
# Values of a key schedule in one question: how many, and how many bytes.
_AT_ONCE, _BYTES_AT_ONCE = 16, 1024
# Kinds of invalid input, by their names in the file.
_INVALID = re.compile("invalid_(message_[1-4]|plaintext_[2-4])")


def knows_rfc9529(document: Node) -> bool:
    traces, invalid = document.value.get("traces"), document.value.get("invalid")
    return isinstance(traces, dict) or (isinstance(invalid, list) and traces is None)


def knows_interop(document: Node) -> bool:
    return isinstance(document.value.get("traces"), list) and "priv_i" in document.value


def parse_rfc9529(document: Node, name: str) -> VectorFile:
    found = VectorFile(name, "EDHOC (RFC 9529)")
    if document.has("traces"):
        for title, trace in document.node("traces").children():
            _Rfc9529(found, title, trace).parse()
    for case in document.nodes("invalid") if document.has("invalid") else ():
        kind = case.text("kind")
        title = f"{kind}: {case.text('name', 'unnamed')}"
        data = case.hex("hex")
        match = _INVALID.fullmatch(kind)
        if match is None:
            found.not_offered.append(NotOffered(_REFUSED, 1, f"inputs of the kind {kind!r}"))
            continue
        check = Check(title, refused(), case.text("why", ""))
        found.questions.append(Question(_REFUSED, "edhoc_refuse", [match[1], data], [check]))
    return found


def _item(node: Node, key: str) -> Any:
    """The value of a CBOR item in the file."""
    try:
        return cbor.decode(node.hex(key))
    except DecodeError as error:
        raise node.error(f"{key!r} is not a CBOR item of the core's subset ({error.detail})") from (
            None
        )


def _integer(node: Node, key: str) -> int:
    value = _item(node, key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise node.error(f"{key!r} is not an integer")
    return value


def _suites(node: Node, key: str) -> list[int]:
    value = _item(node, key)
    suites = value if isinstance(value, list) else [value]
    if not suites or any(isinstance(n, bool) or not isinstance(n, int) for n in suites):
        raise node.error(f"{key!r} is not a cipher suite or a list of them")
    return suites


class _Rfc9529:
    """One trace: sections, and in each the values by RFC 9529's names for them."""

    # What a trace starts from; a value of these names is an input and no case.
    _INPUTS = re.compile(
        "method_cbor_data_item|suites_i_cbor_data_item|[xy]_raw_value|sk_[ir]_raw_value"
        "|c_[ir]_raw_value|ead_._cbor_sequence|id_cred_[ir]_cbor_data_item"
        "|cred_[ir]_raw_value|context_for_keyupdate_raw_value"
    )
    # What needs a curve or signatures that the core does not have: given, where the file says it.
    _FOREIGN = re.compile(
        "g_[xy]_raw_value|g_(xy|rx|iy)_raw_value_ecdh_shared_secret|pk_[ir]_raw_value"
        "|signature_or_mac_[23]_raw_value"
    )

    def __init__(self, found: VectorFile, title: str, trace: Node) -> None:
        self._found = found
        self._title = title
        self._trace = trace

    def parse(self) -> None:
        sections = dict(self._trace.children())
        one = "message_1_second_time" if "message_1_second_time" in sections else "message_1"
        for key in (one, "message_2", "message_3"):
            if key not in sections:
                raise self._trace.error(f"no {key!r}")
        message_1 = sections[one]
        method = _integer(message_1, "method_cbor_data_item")
        suites = _suites(message_1, "suites_i_cbor_data_item")
        if suites[-1] not in _SUITES or not 0 <= method <= 3:
            count = sum(len(section.value) for section in sections.values())
            reason = f"EDHOC method {method} with suite {suites[-1]}: the core has suites 2 and 3"
            self._found.not_offered.append(NotOffered(_KEYS, count, reason))
            return
        self._suite = suites[-1]
        self._tag, self._ours = _SUITES[self._suite]
        given = self._given(message_1, sections, method)
        if "message_1_first_time" in sections and not self._ours:
            sections.pop("message_1_first_time")
            sections.pop("error", None)
            reason = f"a Responder that has suite {self._suite}: the core has 2 and 3"
            self._found.not_offered.append(NotOffered(_RUN, 1, reason))
        elif "message_1_first_time" in sections:
            self._first_time(sections.pop("message_1_first_time"), sections.pop("error", None))
        self._schedule(given, sections)
        if not self._ours or method not in (0, 3):
            reason = (
                f"whole runs of suite {suites[-1]} (X25519, EdDSA): the core has P-256"
                if not self._ours
                else f"whole runs of method {method}: the core has 0 and 3"
            )
            self._found.not_offered.append(NotOffered(_RUN, 1, reason))
            return
        self._run(given, one, sections)

    def _given(self, message_1: Node, sections: dict[str, Node], method: int) -> dict[str, Any]:
        two, three = sections["message_2"], sections["message_3"]
        four = sections.get("message_4", three)
        given: dict[str, Any] = {
            "method": method,
            "tag": self._tag,
            "suites": message_1.hex("suites_i_cbor_data_item"),
            "c_i": message_1.hex("c_i_raw_value"),
            "c_r": two.hex("c_r_raw_value"),
            "ead_1": message_1.hex("ead_1_cbor_sequence", b""),
            "ead_2": two.hex("ead_2_cbor_sequence", b""),
            "ead_3": three.hex("ead_3_cbor_sequence", b""),
            "ead_4": four.hex("ead_4_cbor_sequence", b""),
        }
        for who, section in (("r", two), ("i", three)):
            given["id_cred_" + who] = section.hex(f"id_cred_{who}_cbor_data_item")
            raw = f"cred_{who}_raw_value"
            given["cred_" + who] = (
                cbor.encode(section.hex(raw))
                if section.has(raw)
                else section.hex(f"cred_{who}_cbor_data_item")
            )
        if "key_update" in sections:
            given["context"] = sections["key_update"].hex("context_for_keyupdate_raw_value")
        if self._ours:
            given["x"], given["y"] = message_1.scalar("x_raw_value"), two.scalar("y_raw_value")
            given["sk_r"], given["sk_i"] = (
                two.scalar("sk_r_raw_value"),
                three.scalar("sk_i_raw_value"),
            )
            return given
        ending = "_raw_value_ecdh_shared_secret"
        given["g_x"], given["g_y"] = message_1.hex("g_x_raw_value"), two.hex("g_y_raw_value")
        given["g_xy"] = two.hex("g_xy" + ending)
        if method in (1, 3):
            given["g_rx"] = two.hex("g_rx" + ending)
        else:
            given["signature_2"] = two.hex("signature_or_mac_2_raw_value")
        if method in (2, 3):
            given["g_iy"] = three.hex("g_iy" + ending)
        else:
            given["signature_3"] = three.hex("signature_or_mac_3_raw_value")
        return given

    def _first_time(self, section: Node, error: Node | None) -> None:
        """A message_1 whose suite the Responder does not take, and its answer to that."""
        message = section.hex("message_1_cbor_sequence")
        suites = _suites(section, "suites_i_cbor_data_item")
        method = _integer(section, "method_cbor_data_item")
        # Suites with P-256: 2, 3, 5 and 6 (RFC 9528, section 10.2).
        ours = suites[-1] in (2, 3, 5, 6)
        private = section.scalar("x_raw_value") if ours else None
        g_x = section.hex("g_x_raw_value")
        place = f"{self._title}/message_1_first_time/"
        names = ["message_1_cbor_sequence", "g_x_cbor_data_item", "c_i_cbor_data_item"]
        if ours:
            names.append("g_x_raw_value")
        checks = [
            Check(place + key, part(key, section.hex(key))) for key in names if section.has(key)
        ]
        arguments = [
            *(method, suites, private, g_x, section.hex("c_i_raw_value")),
            section.hex("ead_1_cbor_sequence", b""),
        ]
        self._found.questions.append(Question(_RUN, "edhoc_message_1", arguments, checks))
        if error is None:
            return
        expected = error.hex("error_cbor_sequence")
        try:
            _, info = cbor.decode_sequence(expected, 2)
        except (DecodeError, ValueError):
            raise error.error("'error_cbor_sequence' is not ERR_CODE and ERR_INFO") from None
        # The Responder has the suite that it took at last, and what else it says.
        suites_r = info if isinstance(info, list) else [info]
        suites_r = [suite for suite in suites_r if suite in (2, 3)]
        if self._suite not in suites_r:
            suites_r = [self._suite]
        check = Check(f"{self._title}/error/error_cbor_sequence", exactly(expected))
        self._found.questions.append(
            Question(_RUN, "edhoc_wrong_suite", [message, suites_r], [check])
        )

    def _schedule(self, given: dict[str, Any], sections: dict[str, Node]) -> None:
        asked: list[tuple[str, str, bytes]] = []
        foreign = 0
        for section_name, section in sections.items():
            for key in section.value:
                if self._INPUTS.fullmatch(key):
                    continue
                if not self._ours and self._FOREIGN.fullmatch(key):
                    foreign += 1
                    continue
                asked.append((f"{self._title}/{section_name}/{key}", key, section.hex(key)))
        self._found.questions += _scheduled(given, asked)
        if foreign:
            reason = "public keys, shared secrets and signatures of X25519 and EdDSA"
            self._found.not_offered.append(NotOffered(_KEYS, foreign, reason))

    def _run(self, given: dict[str, Any], one: str, sections: dict[str, Node]) -> None:
        place = f"{self._title}/run/"
        checks = [Check(place + "external authorization data", part("ead", True))]
        for n, section in (("1", one), ("2", "message_2"), ("3", "message_3"), ("4", "message_4")):
            key = f"message_{n}_cbor_sequence"
            if section in sections and sections[section].has(key):
                expected = sections[section].hex(key)
                checks.append(Check(place + "message_" + n, part("message_" + n, expected)))
        values = {key: node for node in sections.values() for key in node.value}
        for ending in ("", "_after_keyupdate"):
            for name in ("prk_out", "prk_exporter"):
                key = f"{name}{ending}_raw_value"
                if key in values:
                    checks.append(_both(place + name + ending, name + ending, values[key].hex(key)))
            for index, name in enumerate(("oscore_master_secret", "oscore_master_salt")):
                key = f"{name}{ending}_raw_value"
                if key in values:
                    judge = _export("exports" + ending, index, values[key].hex(key))
                    checks.append(Check(place + name + ending, judge))
        arguments = [given, [[0, b"", 16], [1, b"", 8]]]
        self._found.questions.append(Question(_RUN, "edhoc_run", arguments, checks))


def _scheduled(given: dict[str, Any], asked: list[tuple[str, str, bytes]]) -> list[Question]:
    """Questions for values by name, a few in each: all of them at once would fill a small heap."""
    questions = []
    while asked:
        count = size = 0
        for _, _, expected in asked[:_AT_ONCE]:
            size += len(expected)
            if count and size > _BYTES_AT_ONCE:
                break
            count += 1
        some, asked = asked[:count], asked[count:]
        checks = [Check(place, part(n, expected)) for n, (place, _, expected) in enumerate(some)]
        arguments = [given, [name for _, name, _ in some]]
        questions.append(Question(_KEYS, "edhoc_schedule", arguments, checks))
    return questions


def _both(place: str, name: str, expected: bytes) -> Check:
    """Initiator and Responder must have the same key."""
    return Check(place, part(name, [expected, expected]))


def _export(name: str, index: int, expected: bytes) -> Judge:
    def judge(answer: Answer) -> Verdict:
        if answer.crash or answer.refusal:
            return failed(expected, answer)
        got = answer.value[name][index]
        return RIGHT if got == [expected, expected] else failed([expected, expected], got)

    return judge


# Values of the key schedule that a trace may have, besides those under "kdf".
_SCHEDULED = (
    *("th_2", "th_3", "th_4", "prk_2e", "prk_3e2m", "prk_4e3m", "plaintext_2", "plaintext_3"),
    *("prk_out", "oscore_master_secret", "oscore_master_salt"),
)
_EXPORTER = re.compile("exporter_([0-9]{1,8})_([0-9]{1,4})")


def parse_interop(document: Node, name: str) -> VectorFile:
    """One pair of certificates for all traces, or a pair in a trace; one object a trace."""
    found = VectorFile(name, "EDHOC (interop)")
    for number, trace in enumerate(document.nodes("traces"), 1):
        method, suite = trace.number("method"), trace.number("suite")
        title = f"trace {number} (method {method}, suite {suite}, {trace.text('id', 'no id')})"
        if method not in (0, 3) or suite not in (2, 3):
            reason = f"EDHOC method {method} with suite {suite}: the core has 0, 3 and 2, 3"
            found.not_offered.append(NotOffered(_RUN, 1, reason))
            continue
        given = _interop_given(document, trace, method, suite)
        found.questions += _interop_questions(title, trace, given)
    return found


def _interop_given(document: Node, trace: Node, method: int, suite: int) -> dict[str, Any]:
    given: dict[str, Any] = {
        "method": method,
        "tag": _SUITES[suite][0],
        "suites": trace.hex("suites_i", cbor.encode(suite)),
        "c_i": trace.hex("c_i"),
        "c_r": trace.hex("c_r"),
        "x": trace.scalar("x"),
        "y": trace.scalar("y"),
    }
    for who in ("i", "r"):
        holder = trace if trace.has("priv_" + who) else document
        given["sk_" + who] = holder.scalar("priv_" + who)
        given["id_cred_" + who] = trace.hex("id_cred_" + who)
        if trace.has("cred_" + who):
            given["cred_" + who] = trace.hex("cred_" + who)
        else:
            holder = trace if trace.has("cert_" + who) else document
            given["cred_" + who] = cbor.encode(holder.hex("cert_" + who))
    eads = trace.node("ead") if trace.has("ead") else Node({}, "")
    for n in "1234":
        given["ead_" + n] = eads.hex(n, b"")
    if trace.has("key_update_context"):
        given["context"] = trace.hex("key_update_context")
    return given


def _interop_questions(title: str, trace: Node, given: dict[str, Any]) -> list[Question]:
    asked = [(f"{title}/{key}", key, trace.hex(key)) for key in _SCHEDULED if trace.has(key)]
    if trace.has("kdf"):
        for key, step in trace.node("kdf").children():
            place = f"{title}/kdf/{key}/"
            asked.append((place + "out", key, step.hex("out")))
            asked.append((place + "context", "context_of_" + key, step.hex("context")))
    place = f"{title}/run/"
    run = [Check(place + "external authorization data", part("ead", True))]
    for n in "1234":
        key = "message_" + n
        if trace.has(key):
            run.append(Check(place + key, part(key, trace.hex(key))))
    for who in "ir":
        key = "id_cred_" + who
        run.append(Check(place + key, part(key, given[key])))
    if trace.has("prk_out"):
        run.append(_both(place + "prk_out", "prk_out", trace.hex("prk_out")))
    if trace.has("prk_out_updated"):
        expected = trace.hex("prk_out_updated")
        run.append(_both(place + "prk_out_updated", "prk_out_after_keyupdate", expected))
    exports: list[list[Any]] = []
    for key, label in (("oscore_master_secret", 0), ("oscore_master_salt", 1)):
        if trace.has(key):
            expected = trace.hex(key)
            run.append(Check(place + key, _export("exports", len(exports), expected)))
            exports.append([label, b"", len(expected)])
    for key in trace.value:
        match = _EXPORTER.fullmatch(key)
        if match:
            run.append(Check(place + key, _export("exports", len(exports), trace.hex(key))))
            exports.append([int(match[1]), b"", int(match[2])])
    return [Question(_RUN, "edhoc_run", [given, exports], run), *_scheduled(given, asked)]
