# Mounts the image that the host names, and runs one module of it.

import os
import sys

import rom
import vfs

vfs.mount(rom.application(os.getenv("KEYFERRY_ROM")), "/rom")
del sys.modules["rom"]
sys.path[:] = ["/rom", ".frozen"]
sys.argv.pop(0)
__import__(sys.argv[0])
