# The virtual board's boot: mounts its flash at / and its application at /rom, then runs main.
# It runs inside MicroPython, once per start, as the first code of the process. A flash with a
# boot.py is a built image: then boot.py and main.py do the rest, as on a board.

import gc
import os
import sys

import flash  # beside this file, as rom
import rom
import vfs


def run_file(path: str) -> None:
    with open(path) as file:
        source = file.read()
    exec(source, {"__name__": "__main__"})


def mount_application(application: "vfs.VfsRom | vfs.VfsPosix") -> None:
    vfs.mount(application, "/rom")
    sys.path[:] = ["/rom", ".frozen"]


place = rom.mapped(os.getenv("KEYFERRY_ROM", ""))
flash.mount(flash.Flash(os.getenv("KEYFERRY_FLASH", "")))
del sys.modules["flash"]
if "boot.py" in os.listdir("/"):
    os.putenv("KEYFERRY_ROM", place)  # for the boot code
    del sys.modules["rom"]
    sys.path[:] = ["", ".frozen", "/lib"]
    run_file("/boot.py")
    gc.collect()
    run_file("/main.py")
else:
    mount_application(rom.application(place))
    del sys.modules["rom"]
    gc.collect()  # before the application takes the heap
    # False in the place of the names to import: main is imported as "__main__", as -m runs it.
    __import__("main", None, None, False)  # pyright: ignore[reportArgumentType]
