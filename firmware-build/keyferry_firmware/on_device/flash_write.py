"""Run by the host at a board's raw prompt: writes the application's image where it belongs.

``room`` says how much there is, then ``begin``, ``put`` in order, and ``end``, which prints the
hash of what is there now. ``clear`` empties the file system.
"""

import binascii
import hashlib
import json
import os

import vfs

_HOST = "/keyferry-host"
_IMAGE = _HOST + "/rom.img"
_place = os.getenv("KEYFERRY_FLASH") if hasattr(os, "getenv") else None
_file = None


def _rom(*arguments):
    """``vfs.rom_ioctl``, where the board has it: the number of places for images is 0 else."""
    found = getattr(vfs, "rom_ioctl", None)
    return found(*arguments) if found else 0


def _segment():
    if _rom(1) < 1:
        return None
    found = _rom(2, 0)
    return None if isinstance(found, int) else found


def room(size):
    whole = os.statvfs("/")
    if _place:
        have = size  # the virtual board's image is a file of any size
    else:
        segment = _segment()
        # a block device cannot be run in place by the boot code
        have = 0 if segment is None or hasattr(segment, "ioctl") else len(segment)
    print(json.dumps({"image": have, "all": whole[0] * whole[2], "free": whole[0] * whole[3]}))


def begin(size):
    global _file
    try:
        vfs.umount("/rom")
    except OSError:
        pass
    if _place:
        try:
            vfs.umount(_HOST)
        except OSError:
            pass
        vfs.mount(vfs.VfsPosix(_place.rsplit("/", 1)[0]), _HOST)
        try:
            os.remove(_IMAGE)  # the old one stays mapped until the reset
        except OSError:
            pass
        _file = open(_IMAGE, "wb")  # noqa: SIM115  # open until end()
    elif _rom(3, 0, size) < 0:
        raise OSError("the image's place cannot be erased")


def put(offset, data):
    data = binascii.a2b_base64(data)
    if _place:
        _file.write(data)
        return
    if len(data) % 16:
        data += b"\xff" * (16 - len(data) % 16)
    if _rom(4, 0, offset, data) < 0:
        raise OSError("the image cannot be written")


def end(size):
    whole = hashlib.sha256()
    if _place:
        _file.close()
        with open(_IMAGE, "rb") as file:
            while True:
                data = file.read(4096)
                if not data:
                    break
                whole.update(data)
        vfs.umount(_HOST)
    else:
        _rom(5, 0)
        whole.update(memoryview(_rom(2, 0))[:size])  # pyright: ignore[reportArgumentType]
    print(binascii.hexlify(whole.digest()).decode())


def clear(folder="/"):
    for entry in os.ilistdir(folder):
        path = folder + entry[0]
        if entry[1] == 0x4000:
            if folder == "/" and entry[0] in ("rom", "keyferry-host", "sd"):
                continue
            clear(path + "/")
            os.rmdir(path)
        else:
            os.remove(path)
