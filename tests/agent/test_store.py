# heap: 1m
"""The keystore: what is in it after any write was cut off by a power failure."""

import gc
import os

from keyferry_agent import slots as slots_module
from keyferry_agent.store import Store, StoreError
from keyferry_core import cbor
from keyferry_core._compat import CPYTHON, sha256
from support.cut_disk import Disk
from support.portable import raises

OLD = ("pump-7", "plant.example", b"\x01" * 32, b"old certificate", b"issuer")
NEW = ("pump-7", "plant.example", b"\x02" * 32, b"new certificate " * 40, b"issuer" * 80)


class Flash:
    """A file system on Disk (MicroPython), with a power switch."""

    path = "/flash"

    def __init__(self, kind):
        import vfs

        self._vfs = vfs
        self._kind = getattr(vfs, kind)
        self._disk = Disk(64)
        self._kind.mkfs(self._disk)
        self._vfs.mount(self._kind(self._disk), self.path)

    def power(self, writes):
        """From now on the power lasts for so many writes."""
        self._disk.left = writes

    def reboot(self):
        """Power back on; True when it had failed before."""
        failed = self._disk.left == 0
        try:
            self._vfs.umount(self.path)
        except OSError:
            pass  # LittleFS may find out only now that its disk has gone
        self._disk.left = None
        self._vfs.mount(self._kind(self._disk), self.path)
        return failed

    def close(self):
        self._vfs.umount(self.path)


class TornFiles:
    """On CPython: ``open`` for the store, whose files keep only the bytes that were paid for."""

    def __init__(self):
        import tempfile

        self._folder = tempfile.TemporaryDirectory()
        self.path = self._folder.name
        self._left = None
        slots_module.open = self._open

    def power(self, writes):
        self._left = writes * 16

    def reboot(self):
        failed = self._left == 0
        self._left = None
        return failed

    def close(self):
        del slots_module.open
        self._folder.cleanup()

    def _open(self, path, mode, **more):
        if self._left == 0 and mode == "wb":
            raise OSError(5)
        return _TornFile(self, open(path, mode, **more))

    def spend(self, wanted):
        if self._left is None:
            return wanted
        taken = min(wanted, self._left)
        self._left -= taken
        return taken


class _TornFile:
    def __init__(self, files, file):
        self._files = files
        self._file = file

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self._file.close()

    def read(self, length):
        return self._file.read(length)

    def write(self, data):
        taken = self._files.spend(len(data))
        self._file.write(data[:taken])
        if taken < len(data):
            self._file.flush()
            raise OSError(5)

    def flush(self):
        self._file.flush()

    def fileno(self):
        return self._file.fileno()


def places():
    """The file systems that this runtime can have. They are used one after another."""
    if CPYTHON:
        return (TornFiles,)
    return (lambda: Flash("VfsLfs2"), lambda: Flash("VfsFat"))


def test_empty():
    for make in places():
        place = make()
        try:
            store = Store(place.path)
            assert store.identity is None
            assert store.pending is None
            assert store.generation == 0
            assert store.damaged == 0
        finally:
            place.close()


def test_pending_then_identity_then_renewal():
    for make in places():
        place = make()
        try:
            Store(place.path).set_pending(OLD[2])
            store = Store(place.path)
            assert store.pending == OLD[2]
            assert store.identity is None
            store.set_identity(*OLD)
            assert store.pending is None
            store = Store(place.path)
            assert store.identity == OLD
            assert store.pending is None
            store.set_pending(NEW[2])
            store = Store(place.path)
            assert store.identity == OLD
            assert store.pending == NEW[2]
            store.set_identity(*NEW)
            store = Store(place.path)
            assert store.identity == NEW
            assert store.pending is None
            assert store.unproved
            assert store.generation == 4
            store.prove()
            store = Store(place.path)
            assert (store.identity, store.unproved) == (NEW, False)
            # the key that was replaced was written over, which took one write more
            assert store.generation == 6
            assert store.damaged == 0
            store.prove()
            assert store.generation == 6
        finally:
            place.close()


def _state(path):
    store = Store(path)
    assert store.damaged < 2
    return store.pending, store.identity


def _cut_everywhere(before, change, after):
    """``change`` on a store made by ``before``, cut after 0, 1, 2… writes until none is missing.

    The next start finds the state before or ``after``, nothing else, and can write again.
    """
    cuts = 0
    for make in places():
        writes = 0
        finished = False
        while not finished:
            gc.collect()
            place = make()
            try:
                store = Store(place.path)
                before(store)
                old = (store.pending, store.identity)
                place.power(writes)
                try:
                    change(store)
                    taken = True
                except StoreError:
                    taken = False
                assert (store.pending, store.identity) == (after if taken else old)
                finished = not place.reboot()
                found = _state(place.path)
                # Power may fail after the last byte was written and before we are told so.
                assert found == after or (found == old and not taken), writes
                change(Store(place.path))
                assert _state(place.path) == after
                cuts += 1
            finally:
                place.close()
            writes += 1
            assert writes < 200
    return cuts


def test_power_cut_at_every_write_of_the_first_key():
    count = _cut_everywhere(
        lambda store: None, lambda store: store.set_pending(OLD[2]), (OLD[2], None)
    )
    assert count > 3


def test_power_cut_at_every_write_of_the_first_identity():
    count = _cut_everywhere(
        lambda store: store.set_pending(OLD[2]),
        lambda store: store.set_identity(*OLD),
        (None, OLD),
    )
    assert count > 5


def test_power_cut_at_every_write_of_a_renewal():
    def before(store):
        store.set_pending(OLD[2])
        store.set_identity(*OLD)

    assert _cut_everywhere(before, lambda store: store.set_identity(*NEW), (None, NEW)) > 5
    assert _cut_everywhere(before, lambda store: store.set_pending(NEW[2]), (NEW[2], OLD)) > 5


def test_power_cut_at_every_write_of_a_proof_and_of_a_return():
    def before(store):
        store.set_identity(*OLD)
        store.set_identity(*NEW)

    assert _cut_everywhere(before, lambda store: store.prove(), (None, NEW)) > 5

    def back(store):
        if store.unproved:
            store.fall_back()

    assert _cut_everywhere(before, back, (None, OLD)) > 5


def test_a_key_that_does_not_work_goes_and_the_one_before_it_comes_back():
    third = NEW[:2] + (b"\x04" * 32,) + NEW[3:]
    for make in places():
        place = make()
        try:
            store = Store(place.path)
            raises(StoreError, store.fall_back)
            store.set_identity(*OLD)
            raises(StoreError, store.fall_back)
            store.set_identity(*NEW)
            # another new key before this one was proved: what is known to work stays
            store.set_identity(*third)
            assert store.identity == third
            Store(place.path).fall_back()
            store = Store(place.path)
            assert (store.identity, store.unproved) == (OLD, False)
            for slot in "01":
                data = _read(place.path + "/identity." + slot)
                assert OLD[2] in data
                assert NEW[2] not in data and third[2] not in data
            # of another device nothing is kept
            store.set_identity("valve-2", *NEW[1:])
            assert not store.unproved
            for slot in "01":
                assert OLD[2] not in _read(place.path + "/identity." + slot)
            store.erase()
            assert os.listdir(place.path) == []
            assert Store(place.path).identity is None
        finally:
            place.close()


def test_a_flash_that_is_full_is_told():
    place = places()[0]()
    try:
        store = Store(place.path)
        store.set_identity(*OLD)

        def full(path, mode, **more):
            if mode == "wb":
                raise OSError(28)
            return open(path, mode, **more)

        kept = getattr(slots_module, "open", None)
        slots_module.open = full
        try:
            error = raises(StoreError, store.set_identity, *NEW)
        finally:
            if kept is None:
                del slots_module.open
            else:
                slots_module.open = kept
        assert error.name == "storage-failed"
        if isinstance(error.detail, str):
            assert "full" in error.detail
        assert store.identity == OLD
        assert Store(place.path).identity == OLD
    finally:
        place.close()


AGREEMENT = (b"\x03" * 32, b"endorsed by the key of OLD")


def test_a_store_of_an_earlier_version_takes_an_agreement_key():
    for make in places():
        place = make()
        try:
            # what a version without such keys wrote
            state = {1: 1, 3: OLD[0], 4: OLD[1], 5: OLD[2], 6: OLD[3], 7: OLD[4]}
            body = cbor.encode(state)
            _write(place.path + "/identity.1", b"KFS1" + sha256(body) + body)
            store = Store(place.path)
            assert (store.identity, store.agreement, store.damaged) == (OLD, None, 0)
            store.set_agreement(*AGREEMENT)
            store = Store(place.path)
            assert (store.identity, store.agreement, store.damaged) == (OLD, AGREEMENT, 0)
        finally:
            place.close()


def test_an_agreement_key_lives_as_long_as_the_key_that_endorsed_it():
    for make in places():
        place = make()
        try:
            store = Store(place.path)
            raises(StoreError, store.set_agreement, *AGREEMENT)  # nothing endorses it
            store.set_identity(*OLD)
            store.set_agreement(*AGREEMENT)
            store.set_pending(NEW[2])
            assert Store(place.path).agreement == AGREEMENT
            same_key = NEW[:2] + OLD[2:3] + NEW[3:]
            store.set_identity(*same_key)
            store = Store(place.path)
            assert (store.identity, store.agreement) == (same_key, AGREEMENT)
            store.set_identity(*NEW)
            assert store.agreement is None
            assert Store(place.path).agreement is None
            store.prove()
            for slot in "01":
                data = _read(place.path + "/identity." + slot)
                assert NEW[2] in data
                for gone in (OLD[2], AGREEMENT[0], AGREEMENT[1]):
                    assert gone not in data
        finally:
            place.close()


def test_power_cut_at_every_write_of_an_agreement_key():
    def before(store):
        store.set_identity(*OLD)

    kept = []

    def change(store):
        store.set_agreement(*AGREEMENT)
        kept.append(store.agreement)

    assert _cut_everywhere(before, change, (None, OLD)) > 3
    assert kept
    for found in kept:
        assert found == AGREEMENT


def _write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def _read(path):
    with open(path, "rb") as file:
        return file.read()


def test_a_damaged_file_is_never_believed():
    place = places()[0]()
    try:
        store = Store(place.path)
        store.set_identity(*OLD)
        store.set_identity(*NEW[:2], OLD[2], *NEW[3:])  # renewed for the same key
        newest = place.path + "/identity.0"
        good = _read(newest)
        for at in (0, 4, 20, 36, 40, 100, len(good) - 1):
            bad = bytearray(good)
            bad[at] ^= 1
            _write(newest, bytes(bad))
            store = Store(place.path)
            assert store.identity == OLD
            assert store.damaged == 1
        for length in (0, 1, 35, 36, 37, len(good) - 1):
            _write(newest, good[:length])
            assert Store(place.path).identity == OLD
        _write(newest, good + b"\x00")
        assert Store(place.path).identity == OLD
        _write(newest, b"")
        _write(place.path + "/identity.1", b"KFS1")
        store = Store(place.path)
        assert store.identity is None
        assert store.damaged == 2
        # broken, but a new start is possible
        store.set_pending(OLD[2])
        assert Store(place.path).pending == OLD[2]
    finally:
        place.close()


def test_a_file_in_the_other_ones_place_is_not_believed():
    # Generation 1 belongs in file 1. From file 0, its next change would be written over it.
    place = places()[0]()
    try:
        Store(place.path).set_identity(*OLD)
        _write(place.path + "/identity.0", _read(place.path + "/identity.1"))
        os.remove(place.path + "/identity.1")
        store = Store(place.path)
        assert store.identity is None
        assert store.damaged == 1
    finally:
        place.close()


def test_contents_with_a_good_checksum_are_checked_as_well():
    place = places()[0]()
    try:
        whole = {1: 1, 3: "a", 4: "b", 5: bytes(32), 6: b"c", 7: b"d"}
        for change in (
            {1: 2},
            {1: -1},
            {1: True},
            {1: "1"},
            {2: b""},
            {2: bytes(129)},
            {3: b"a"},
            {5: b""},
            {6: b""},
            {6: bytes(2049)},
            {7: "d"},
            {8: 1},
            {8: bytes(32)},
            {9: bytes(100)},
            {8: bytes(32), 9: bytes(281)},
            {10: b"e"},
            {11: bytes(32), 12: b"e"},
            {14: b""},
            {15: b"e"},
            {7: None},
        ):
            state = dict(whole)
            state.update(change)
            if state[7] is None:
                del state[7]
            for body in (cbor.encode(state), b"\x81\x00", b"\xff"):
                _write(place.path + "/identity.1", b"KFS1" + sha256(body) + body)
                store = Store(place.path)
                assert store.identity is None, change
                assert store.damaged == 1
        body = cbor.encode(whole)
        _write(place.path + "/identity.1", b"KFS1" + sha256(body) + body)
        assert Store(place.path).identity == ("a", "b", bytes(32), b"c", b"d")
    finally:
        place.close()


def test_what_cannot_be_an_identity_is_not_written():
    place = places()[0]()
    try:
        store = Store(place.path)
        raises(StoreError, store.set_pending, b"")
        raises(StoreError, store.set_identity, "a", "b", bytes(32), bytes(2049), b"c")
        assert store.generation == 0
        assert store.pending is None
        assert Store(place.path).generation == 0
    finally:
        place.close()


def test_flash_that_gives_back_something_else():
    place = places()[0]()
    try:
        store = Store(place.path)
        store.set_pending(OLD[2])
        kept = getattr(slots_module, "open", open)

        def swapped(path, mode, **more):
            return kept(path if mode == "wb" else place.path + "/other", mode, **more)

        for other in (b"something else", _read(place.path + "/identity.1") + b"more"):
            _write(place.path + "/other", other)
            slots_module.open = swapped
            error = raises(StoreError, store.set_identity, *OLD)
            slots_module.open = kept
            assert error.name == "storage-failed"
        assert store.pending == OLD[2]
        assert store.identity is None
    finally:
        place.close()
