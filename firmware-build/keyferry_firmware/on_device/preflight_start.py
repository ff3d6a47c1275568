# Mounts the image that the host names, and runs the measuring module in it.

import os
import sys

import vfs

rom = __import__("rom")  # the bench's, which the host puts beside this file
vfs.mount(rom.application(os.getenv("KEYFERRY_ROM", "")), "/rom")
del sys.modules["rom"]
sys.path[:] = ["/rom", ".frozen"]
__import__("preflight_subject")
