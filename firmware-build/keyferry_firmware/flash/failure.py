"""Why a board was not flashed."""


class Failure(Exception):
    """``name`` is for programs, the text says what is wrong, ``remedy`` what to do next.

    ``again``: whether the same may work at a second try.
    """

    def __init__(self, name: str, text: str, remedy: str, *, again: bool = False) -> None:
        super().__init__(text)
        self.name = name
        self.remedy = remedy
        self.again = again


def stopped() -> Failure:
    return Failure("stopped", "it was stopped by you", "flash this board again, it may be half-way")
