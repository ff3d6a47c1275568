"""A device's first steps: checks the application's image, mounts it at /rom, and runs its main.

``boot.py`` on the flash calls ``start`` with where this board has the image; ``main.py`` calls
``run``. An image that is not what was built stays unmounted: one line on the console says why, and
nothing of it runs. Whoever can write the flash can replace this file as well: it is a guard against
broken and half-written images, not against an attacker with the board in hand.
"""

import gc
import hashlib
import json
import os
import sys

import uctypes
import vfs

_MAGIC = b"KFROM\x00\x01\n"
_HEAD = 64

mounted = False
# For who looks at the board: the SHA-256 of the image that was mounted, or why none is.
image = ""
refused = ""


class Refused(Exception):
    """The image is not mounted; the text says why."""


def _in_place(kind, address, size):
    """The ROM area as memory, which costs the heap nothing."""
    if kind == "partition":  # mapped by the firmware, as esp32's does
        rom_ioctl = getattr(vfs, "rom_ioctl", None)
        if rom_ioctl is None or not rom_ioctl(1):
            raise Refused("there is no romfs partition: flash the partition table")
        return memoryview(rom_ioctl(2, 0))
    if kind == "process":  # a virtual board: the launcher says where it mapped the file
        place, _, length = os.getenv("KEYFERRY_ROM", "").partition(":")
        if not length:
            raise Refused("this interpreter cannot map an image")
        address, size = int(place), int(length)
    return memoryview(uctypes.bytearray_at(address, size))


def check(memory):
    """The ROMFS image in a sealed one, as memory. Raises Refused."""
    if len(memory) < _HEAD or bytes(memory[:8]) != _MAGIC or bytes(memory[12:32]) != bytes(20):
        raise Refused("there is none")
    length = int.from_bytes(bytes(memory[8:12]), "little")
    if not 0 < length <= len(memory) - _HEAD:
        raise Refused("it is cut short")
    image = memory[_HEAD : _HEAD + length]
    if hashlib.sha256(image).digest() != bytes(memory[32:_HEAD]):
        raise Refused("its SHA-256 is wrong")
    return image


def start(kind, address=0, size=0):
    """Mount the image when it is whole. Nothing is raised: a board must come up to be repaired."""
    global mounted, image, refused
    try:
        vfs.umount("/rom")
    except OSError:
        pass  # nothing was there
    # what is only in memory or on the flash must not stand in for what the image has
    sys.path[:] = [".frozen"]
    try:
        memory = _in_place(kind, address, size)
        vfs.mount(vfs.VfsRom(check(memory)), "/rom")
    except (Refused, OSError, ValueError, AttributeError) as error:
        refused = str(error)
        print("keyferry boot: the application image is refused:", error)
        return
    image = bytes(memory[32:_HEAD]).hex()  # what check() compared
    print("keyferry boot: application image", image[:16])
    sys.path[:] = ["/rom", ".frozen"]
    mounted = True


def _join():
    """Let the radio begin to join the Wi-Fi that ``/wifi.json`` names, if there is one.

    Nobody waits: it joins while the application is imported. Whether it does, and what to do if
    not, is for the agent (keyferry_agent/wifi.py). What is wrong is said in words of our own, since
    an exception's might be of the file.
    """
    try:
        with open("/wifi.json") as file:
            known = json.load(file)
    except OSError:
        return
    except ValueError:
        print("keyferry boot: wifi.json: not JSON")
        return
    try:
        network = __import__("network")  # boards with a radio have it
    except ImportError:
        print("keyferry boot: this board has no Wi-Fi")
        return
    try:
        words = [known["ssid"]]
        if known.get("password"):
            words.append(known["password"])
        radio = network.WLAN(network.STA_IF)
        radio.active(True)
        if not radio.isconnected():
            radio.connect(*words)
    except (KeyError, TypeError, AttributeError, ValueError, OSError):
        print("keyferry boot: wifi.json: the radio does not take it")


def run():
    """Run the application's main. Raises Refused when no image is mounted."""
    if not mounted:
        raise Refused("no application runs: flash the application image again")
    _join()
    gc.collect()  # before the application takes the heap
    # main.py of the flash, which called this, goes by another name
    __import__("main")
