"""Run by the host at a board's raw prompt: prints what the board is, as JSON."""

import json
import sys


def look():
    import gc

    try:
        import machine
    except ImportError:
        machine = None
    unique = getattr(machine, "unique_id", None)  # the Unix port has none
    number = unique().hex() if unique else ""
    boot = sys.modules.get("keyferry_boot")
    own = sys.implementation
    gc.collect()
    fields = {
        "version": ".".join([str(part) for part in own.version if part != ""]),
        "machine": getattr(own, "_machine", ""),
        "platform": sys.platform,
        "bytecode": getattr(own, "_mpy", 0) & 0xFF,
        "serial_number": number,
        "image": getattr(boot, "image", ""),
        "refused": getattr(boot, "refused", "" if boot else "there is no boot code"),
        "free": gc.mem_free(),
    }
    print(json.dumps(fields))


look()
