"""EDHOC in a heap of some size: ``role_subject ROLE FILE``, ROLE as in roles.py or ``both``.

FILE has a line in hexadecimal for each of both parties' private and public keys, then the four
messages. Prints ``done`` and, with a third argument, the largest live heap above what there was
before the run.
"""

import gc
import sys

import roles

gc.threshold(8192)  # as the agent has it

role = sys.argv[1]
with open(sys.argv[2]) as file:
    parts = [bytes.fromhex(line.strip()) for line in file]
keys_i, keys_r, messages = parts[:2], parts[2:4], parts[4:]


def used():
    gc.collect()
    return gc.mem_alloc()


def run():
    if role == "both":
        roles.both(roles.make, keys_i, keys_r)
    else:
        roles.alone(role, roles.make, keys_i, keys_r, messages)


if len(sys.argv) > 3:
    from keyferry_core import p256_point

    run()  # loads the role, so that only data is counted below
    arithmetic = p256_point._run
    highest = before = used()

    def watched(*arguments):
        # inside a multiplication everything is alive: messages, keys, tables
        global highest
        highest = max(highest, used())
        return arithmetic(*arguments)

    p256_point._run = watched
    run()
    print(highest - before)
else:
    run()
    print("done")
