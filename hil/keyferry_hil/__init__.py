"""The bench: devices to test with. So far virtual ones, real MicroPython in its own process."""
