"""The protocol core: bytes in, bytes and events out, on CPython and MicroPython alike.

Nothing here opens a socket or a file, reads a clock or draws randomness: callers pass these in.
"""
