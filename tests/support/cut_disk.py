"""A block device in RAM whose power fails, for LittleFS and FAT on MicroPython."""

# What the last write before the end leaves: nothing of it, its first half, or, as flash does that
# loses power while it programs, some bits of all of it.
NOTHING, HALF, BITS = range(3)


class Disk:
    """After ``left`` more writes and erasures nothing is kept; of the last one what ``tear`` says.

    ``left`` None: the power stays.
    """

    BLOCK = 512

    def __init__(self, blocks, tear=HALF):
        self.data = bytearray(b"\xff" * (blocks * self.BLOCK))
        self.left = None
        self.tear = tear
        self.writes = 0

    def _program(self, at, data):
        """Put ``data`` at ``at``, as far as the power goes."""
        self.writes += 1
        length = len(data)
        if self.left is not None:
            if self.left == 0:
                raise OSError(5)
            self.left -= 1
            if self.left == 0:
                if self.tear == HALF:
                    self.data[at : at + length // 2] = data[: length // 2]
                elif self.tear == BITS:
                    for i in range(length):
                        mask = 0x55 if i % 2 else 0xF0
                        self.data[at + i] = self.data[at + i] & ~mask | data[i] & mask
                raise OSError(5)
        self.data[at : at + length] = data

    def readblocks(self, number, buffer, offset=0):
        at = number * self.BLOCK + offset
        buffer[:] = self.data[at : at + len(buffer)]

    def writeblocks(self, number, buffer, offset=0):
        self._program(number * self.BLOCK + offset, buffer)  # FAT writes whole blocks

    def ioctl(self, operation, argument):
        if operation == 4:
            return len(self.data) // self.BLOCK
        if operation == 5:
            return self.BLOCK
        if operation == 6:
            self._program(argument * self.BLOCK, b"\xff" * self.BLOCK)
            return 0
        return None
