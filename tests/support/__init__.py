"""Helpers of the tests. ``portable`` runs on CPython and on MicroPython."""
