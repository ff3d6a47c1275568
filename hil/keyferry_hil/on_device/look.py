# Run on a board by the bench: who it is, and the hash of its application's files.
import gc
import hashlib
import json
import os
import sys


def hash_files(folder: str, found: list) -> None:
    try:
        entries = sorted(os.ilistdir(folder))
    except OSError:
        return
    block = bytearray(512)
    for entry in entries:
        path = folder + "/" + entry[0]
        if entry[1] & 0x4000:
            hash_files(path, found)
            continue
        hashed = hashlib.sha256()
        with open(path, "rb") as file:
            while True:
                size = file.readinto(block)
                if not size:
                    break
                hashed.update(memoryview(block)[:size])
        # relative to /rom or /lib, so that one application has one hash wherever it lies
        found.append((path[5:], hashed.digest()))


def look() -> dict:
    try:
        machine = __import__("machine")
        chip = machine.unique_id().hex()
    except (ImportError, AttributeError):
        chip = ""
    found = []
    for folder in ("/rom", "/lib"):
        hash_files(folder, found)
    firmware = ""
    if found:
        whole = hashlib.sha256()
        for name, digest in sorted(found):
            whole.update(name.encode() + b"\0" + digest)
        firmware = whole.digest().hex()
    gc.collect()
    return {
        "name": sys.implementation.name,
        "version": ".".join([str(part) for part in sys.implementation.version[:3]]),
        "machine": getattr(sys.implementation, "_machine", ""),
        "platform": sys.platform,
        "chip": chip,
        "firmware": firmware,
        "files": len(found),
        "free": gc.mem_free(),
        "used": gc.mem_alloc(),
    }


print(json.dumps(look()))
