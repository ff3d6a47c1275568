"""A board that is no hardware: real MicroPython behind a serial port, with its own flash.

``python -m keyferry_hil.virtual_board FOLDER --port LINK`` is one board. Whatever opens LINK sees
what a serial port shows: the REPL, Ctrl-C, soft and hard resets, and silence when the power is off.
"""
