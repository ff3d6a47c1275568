# Mounts the image that the host has put into this process, and runs one module of it.

import os
import sys

import uctypes
import vfs

address, size = os.getenv("KEYFERRY_ROM").split(":")
vfs.mount(vfs.VfsRom(memoryview(uctypes.bytearray_at(int(address), int(size)))), "/rom")
sys.path[:] = ["/rom", ".frozen"]
sys.argv.pop(0)
__import__(sys.argv[0])
