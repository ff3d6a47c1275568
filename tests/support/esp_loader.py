"""The loader in an ESP32's ROM, behind a pseudo-terminal: enough of its protocol for esptool.

SLIP frames (RFC 1055) with a command each, as Espressif documents them ("Serial Protocol"). What
is written lands in ``flash``. Faults are set by the test and happen once.
"""

import hashlib
import os
import pty
import select
import struct
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager

MAGIC = {"esp32": 0x00F01D83, "esp32s2": 0x000007C6}
MAC = "246f28aabbcc"
_SYNC, _FLASH_BEGIN, _FLASH_DATA, _FLASH_END = 0x08, 0x02, 0x03, 0x04
_WRITE_REG, _READ_REG, _SET_PARAMS, _ATTACH, _MD5 = 0x09, 0x0A, 0x0B, 0x0D, 0x13
_KNOWN = (_FLASH_END, _WRITE_REG, _SET_PARAMS, _ATTACH)
_REGISTERS = {
    0x3FF40014: 347,  # divider of the UART's clock: 40 MHz by 115200
    0x3FF5A004: 0x28AABBCC,
    0x3FF5A008: 0x246F,
    0x3FF42080: 0x1640EF,  # the flash's identification: 4 MiB
}


class Loader:
    """``port``: for esptool. ``flash``: what the chip's flash has."""

    def __init__(self, chip: str) -> None:
        self.flash = bytearray(b"\xff" * 0x400000)
        self.silent_after = 0  # blocks, then no answer to the next
        self.wrong_md5 = 0  # how many answers
        self.syncs = self.blocks = 0
        self._chip = chip
        self._at = 0
        self._mute = False
        self._own, self._end = pty.openpty()
        tty.setraw(self._end)
        self.port = os.ttyname(self._end)
        self._stop, self._stopping = os.pipe()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        held = b""
        while True:
            ready, _, _ = select.select([self._own, self._stop], [], [])
            if self._stop in ready:
                return
            held += os.read(self._own, 4096)
            *frames, held = held.split(b"\xc0")
            for frame in frames:
                body = frame.replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb")
                if len(body) >= 8 and body[0] == 0:
                    self._command(body)

    def _command(self, body: bytes) -> None:
        _, operation, size, check = struct.unpack("<BBHI", body[:8])
        data = body[8 : 8 + size]
        if operation == _SYNC:
            self._mute = False
            self.syncs += 1
            for _ in range(8):
                self._answer(operation)
        elif self._mute:
            return
        elif operation == _READ_REG:
            register = int.from_bytes(data, "little")
            value = MAGIC[self._chip] if register == 0x40001000 else _REGISTERS.get(register, 0)
            self._answer(operation, value)
        elif operation == _FLASH_BEGIN:
            erase, _, _, self._at = struct.unpack("<4I", data[:16])
            self.flash[self._at : self._at + erase] = b"\xff" * erase
            self._answer(operation)
        elif operation == _FLASH_DATA:
            self._data(data, check)
        elif operation == _MD5:
            offset, length = struct.unpack("<2I", data[:8])
            piece = bytes(self.flash[offset : offset + length])
            if self.wrong_md5:
                self.wrong_md5 -= 1
                piece += b"!"
            self._answer(operation, 0, hashlib.md5(piece).hexdigest().encode())
        elif operation in _KNOWN:
            self._answer(operation)
        else:
            self._answer(operation, status=b"\x01\x05\0\0")  # a command that it does not know

    def _data(self, data: bytes, check: int) -> None:
        size, number, _, _ = struct.unpack("<4I", data[:16])
        block = data[16 : 16 + size]
        whole = 0xEF
        for byte in block:
            whole ^= byte
        if self.silent_after and self.blocks >= self.silent_after:
            self.silent_after = 0
            self._mute = True
            return
        if whole != check or len(block) != size:
            self._answer(_FLASH_DATA, status=b"\x01\x07\0\0")
            return
        at = self._at + number * size
        self.flash[at : at + size] = block
        self.blocks += 1
        self._answer(_FLASH_DATA)

    def _answer(
        self, operation: int, value: int = 0, data: bytes = b"", status: bytes = bytes(4)
    ) -> None:
        data += status
        body = struct.pack("<BBHI", 1, operation, len(data), value) + data
        escaped = body.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
        os.write(self._own, b"\xc0" + escaped + b"\xc0")

    def close(self) -> None:
        os.close(self._stopping)
        self._thread.join()
        for end in (self._stop, self._own, self._end):
            os.close(end)


@contextmanager
def esp_loader(chip: str = "esp32") -> Iterator[Loader]:
    """A chip that waits in its loader."""
    loader = Loader(chip)
    try:
        yield loader
    finally:
        loader.close()
