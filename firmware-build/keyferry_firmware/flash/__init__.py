"""Images onto boards: by esptool, as UF2, or through MicroPython's REPL; then a look at each."""
