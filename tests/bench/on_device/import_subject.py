"""Prints the heap that modules need, one after the other: ``import_subject MODULE...``."""

import gc
import sys


def used():
    gc.collect()
    return gc.mem_alloc()


before = used()
for name in sys.argv[1:]:
    __import__(name)
print(used() - before)
