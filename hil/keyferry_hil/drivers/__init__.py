"""Who does it: pyserial, mpremote, esptool's lines, uhubctl, a relay, the virtual board."""
