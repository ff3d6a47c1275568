"""Runs one case at a time, in either runtime, when a line on standard input asks for it.

``micropython worker.py CRYPTO VECTORS``: CRYPTO is ``core`` or ``cryptography``, VECTORS the path
of identities.json. A line names a case; the answer is a line of JSON. The host mixes the cases of
all runtimes, so that what disturbs the machine disturbs them alike.
"""

import gc
import json
import os
import sys

import edhoc_cases
import parties
import primitive_cases
import record_cases

from keyferry_core._compat import CPYTHON


def answer(value):
    sys.stdout.write(json.dumps(value) + "\n")
    if CPYTHON:
        sys.stdout.flush()


def main(backend, vectors):
    crypto = parties.crypto(backend, os.urandom)
    with open(vectors) as file:
        identities = json.load(file)
    cases = {}
    for module in (primitive_cases, edhoc_cases, record_cases):
        cases.update(module.cases(crypto, identities))
    if backend == "cryptography":
        import peer_cases

        cases.update(peer_cases.cases())
    answer(sorted(cases))
    while True:
        line = sys.stdin.readline()
        if not line:
            return
        # each case begins with the same heap; what it leaves behind is its own
        gc.collect()
        answer(cases[line.strip()]())


main(sys.argv[1], sys.argv[2])
