"""What a firmware engineer must put right. The text is one sentence that says what to do next."""


class FirmwareProblem(Exception):
    """An input, a key or a limit that a build cannot go on with."""
