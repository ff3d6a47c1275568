"""What the operator must put right. A problem's text is one sentence that says what to do next."""


class Problem(Exception):
    """Base of everything the command line shows as one sentence, without a traceback."""


class ConfigProblem(Problem):
    """The configuration file is missing, unreadable or says something impossible."""


class StoreProblem(Problem):
    """The database cannot be opened, is of another version, or refuses a change."""


class AuthorityProblem(Problem):
    """A key or certificate of the manager is missing, unreadable or does not fit."""


class NotFound(StoreProblem):
    """What was named is not there."""


class Conflict(StoreProblem):
    """What is there already stands against it."""


class Invalid(Problem):
    """What was asked for makes no sense, whatever is there."""


class Forbidden(Problem):
    """Whoever asks may not do this."""


class ChangedMeanwhile(Conflict):
    """Somebody else changed what a decision rests on; it can be made again."""


class AuthorityUnavailable(AuthorityProblem):
    """Who signs does not answer now. ``retry_after`` is in seconds."""

    def __init__(self, text: str, retry_after: int = 10) -> None:
        super().__init__(text)
        self.retry_after = retry_after
