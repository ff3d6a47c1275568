"""The sealed application image: what lies in a board's ROM area.

ROMFS checks nothing itself, so 64 bytes stand before it: magic (8 bytes), length of the ROMFS image
(4, least significant first), zeros (20), SHA-256 of the ROMFS image (32). The boot code on the
device (``on_device/keyferry_boot.py``) mounts nothing that does not fit them. Firmware that mounts
a ROM area by itself finds no ROMFS at its start, and so leaves it to the boot code.
"""

import hashlib

from keyferry_firmware.problems import FirmwareProblem

MAGIC = b"KFROM\x00\x01\n"
HEAD = 64


def seal(romfs: bytes) -> bytes:
    """The image with its head before it."""
    length = len(romfs).to_bytes(4, "little")
    return MAGIC + length + bytes(20) + hashlib.sha256(romfs).digest() + romfs


def unseal(image: bytes) -> bytes:
    """The ROMFS image in a sealed one. FirmwareProblem when it is changed or cut short."""
    length = int.from_bytes(image[8:12], "little")
    romfs = image[HEAD : HEAD + length]
    if image[:8] != MAGIC or image[12:32] != bytes(20):
        raise FirmwareProblem("this is no sealed application image; build it again.")
    if len(romfs) != length:
        raise FirmwareProblem("the application image is cut short; build or copy it again.")
    if hashlib.sha256(romfs).digest() != image[32:HEAD]:
        raise FirmwareProblem("the application image is not what was sealed; build it again.")
    return romfs
