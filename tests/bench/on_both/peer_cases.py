"""EDHOC by lakers, in the same process: method 3, suite 2, credentials by kid. CPython only."""

import os

import lakers
from stopwatch import Stopwatch

from keyferry_core import suite
from keyferry_core.edhoc.credentials import ccs

REPEAT = 10
_REFERENCE = lakers.CredentialTransfer.ByReference


def cases():
    crypto = suite.Crypto(os.urandom)
    parties = []
    for kid, subject in ((b"\x2b", "panel-1"), (b"\x32", "pump-7")):
        private, public = crypto.generate()
        parties.append((private, lakers.Credential(ccs(subject, kid, public))))
    (private_a, own_a), (private_b, own_b) = parties

    def once():
        initiator = lakers.EdhocInitiator()
        responder = lakers.EdhocResponder(private_b, own_b)

        def answer(message_1):
            responder.process_message_1(message_1)
            return responder.prepare_message_2(_REFERENCE, b"\x07", None)

        def go_on(message_2):
            _, id_cred_r, _ = initiator.parse_message_2(message_2)
            found = lakers.credential_check_or_fetch(id_cred_r, own_b)
            initiator.verify_message_2(private_a, own_a, found)
            return initiator.prepare_message_3(_REFERENCE, None)[0]

        def finish(message_3):
            id_cred_i, _ = responder.parse_message_3(message_3)
            responder.verify_message_3(lakers.credential_check_or_fetch(id_cred_i, own_a))

        watch = Stopwatch()
        message_1 = watch.time("0", initiator.prepare_message_1, b"\x05")
        message_2 = watch.time("1", answer, message_1)
        message_3 = watch.time("2", go_on, message_2)
        watch.time("3", finish, message_3)
        return [watch.spent[step] for step in "0123"]

    def several():
        runs = [once() for _ in range(REPEAT)]
        return [sum(times) / REPEAT for times in zip(*runs, strict=True)]

    return {"lakers method 3 suite 2": several}
