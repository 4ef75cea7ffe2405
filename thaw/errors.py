"""The exceptions for what a user can cause; their text is the sentence the user reads."""

from collections.abc import Mapping


class InputError(ValueError):
    """Bad input: says what was given, what is allowed and what to do, in one sentence."""


class Refused(InputError):
    """Some files of a folder cannot be used: why, by their paths from there. The sentence is about
    the first."""

    def __init__(self, reasons: Mapping[str, str], more: str = "") -> None:
        super().__init__(next(iter(reasons.values())) + more)
        self.reasons = reasons
