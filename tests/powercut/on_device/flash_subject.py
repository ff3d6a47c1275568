# Runs in MicroPython: each change of a device's state on LittleFS, cut at every write. For each
# case and each way to tear the last write it prints one line of JSON; the next start must find the
# state before or after, whole, and be able to go on.
#
# argv: "all", or a step: then only every so many writes are cut.

import gc
import json
import sys

import vfs

from keyferry_agent.pins import Pins
from keyferry_agent.store import Store
from keyferry_core import cbor
from keyferry_core.errors import KeyferryError
from support.cut_disk import BITS, HALF, NOTHING, Disk

PLACE = "/flash"
OLD = ("pump-7", "plant.example", b"\x01" * 32, b"old certificate " * 38, b"issuer" * 90)
NEW = ("pump-7", "plant.example", b"\x02" * 32, b"new certificate " * 39, b"issuer" * 90)
RENEWED = NEW[:2] + OLD[2:3] + NEW[3:]
OTHER = ("valve-2",) + NEW[1:]
AGREEMENT = (b"\x03" * 32, b"endorsed" * 20)
TEARS = {"nothing": NOTHING, "half": HALF, "bits": BITS}


def enrolled(store):
    store.set_pending(OLD[2])
    store.set_identity(*OLD)
    store.set_agreement(*AGREEMENT)


def renewing(store):
    enrolled(store)
    store.set_pending(NEW[2])


def unproved(store):
    renewing(store)
    store.set_identity(*NEW, b"", chained())


def chained():
    """A chain that can lose its last link."""
    return cbor.encode([b"succession" * 14])


def nothing(store):
    pass


def pinned(store):
    """Keys that this device has met."""
    pin("valve-2", b"\x04" * 65)


def pin(name, key):
    pins = Pins(PLACE + "/")
    keys = pins.of("plant.example")
    keys[name] = key
    pins.put("plant.example", keys)


# name: what is there before, and the change
CASES = [
    ("enrol: key", nothing, lambda store: store.set_pending(OLD[2])),
    (
        "enrol: identity",
        lambda store: store.set_pending(OLD[2]),
        lambda store: store.set_identity(*OLD),
    ),
    (
        "enrol: agreement key",
        lambda store: store.set_identity(*OLD),
        lambda store: store.set_agreement(*AGREEMENT),
    ),
    ("renew: same key", enrolled, lambda store: store.set_identity(*RENEWED)),
    ("renew: new key", enrolled, lambda store: store.set_pending(NEW[2])),
    ("renew: identity", renewing, lambda store: store.set_identity(*NEW, b"", chained())),
    ("renew: proof", unproved, lambda store: store.prove()),
    ("renew: return", unproved, lambda store: store.fall_back()),
    ("provision anew", enrolled, lambda store: store.set_identity(*OTHER)),
    ("pin: first", nothing, pinned),
    ("pin: another name", pinned, lambda store: pin("gauge-3", b"\x05" * 65)),
    ("pin: next key", pinned, lambda store: pin("valve-2", b"\x06" * 65)),
]


def look():
    store = Store(PLACE)
    pins = Pins(PLACE + "/")
    state = (store.pending, store.identity, store.agreement, store.unproved, store.chain)
    return state + (pins.of("plant.example"),), max(store.damaged, pins.damaged)


def uncut(before, change):
    """The state before and after, on a disk that lives."""
    disk = Disk(48)
    vfs.VfsLfs2.mkfs(disk)
    vfs.mount(vfs.VfsLfs2(disk), PLACE)
    before(Store(PLACE))
    old, _ = look()
    change(Store(PLACE))
    new, _ = look()
    vfs.umount(PLACE)
    assert old != new
    return old, new


def cut(before, change, tear, writes, old, new):
    """One cell: "" or what was lost; and whether the power failed at all."""
    disk = Disk(48, tear)
    vfs.VfsLfs2.mkfs(disk)
    vfs.mount(vfs.VfsLfs2(disk), PLACE)
    try:
        before(Store(PLACE))
        disk.left = writes
        store = Store(PLACE)
        try:
            change(store)
            taken = True
        except (KeyferryError, OSError):
            taken = False
        failed = disk.left == 0
    finally:
        try:
            vfs.umount(PLACE)
        except OSError:
            pass  # it may find out only now
    disk.left = None
    vfs.mount(vfs.VfsLfs2(disk), PLACE)
    try:
        found, damaged = look()
        if damaged > 1:
            return "both files damaged", failed
        if found != old and found != new:
            return "neither the old nor the new state", failed
        if found == old:
            if taken:
                return "it was told to be taken and is gone", failed
            change(Store(PLACE))
            found, _ = look()
            if found != new:
                return "what was asked again was not done", failed
        # the next write of each, into the other file
        Store(PLACE).set_pending(b"\x09" * 32)
        if found[-1]:
            Pins(PLACE + "/").put("plant.example", found[-1])
        found, damaged = look()
        if damaged or found[1:] != new[1:]:
            return "not repaired by the next write", failed
    except (KeyferryError, OSError) as error:
        return "no way on: " + str(error), failed
    finally:
        vfs.umount(PLACE)
    return "", failed


def main():
    step = 1 if sys.argv[1] == "all" else int(sys.argv[1])
    for name, before, change in CASES:
        old, new = uncut(before, change)
        for tear in sorted(TEARS):
            cells = 0
            lost = []
            writes = 1
            failed = True
            while failed:
                gc.collect()
                problem, failed = cut(before, change, TEARS[tear], writes, old, new)
                if failed:
                    cells += 1
                    if problem:
                        lost.append([writes, problem])
                elif problem:
                    lost.append([0, problem])
                writes += step
            print(json.dumps({"case": name, "tear": tear, "cells": cells, "lost": lost}))


main()
print(json.dumps({"done": True}))  # the interpreter's exit status does not say it
