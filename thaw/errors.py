"""The one exception for what a user can cause; its text is the sentence the user reads."""


class InputError(ValueError):
    """Bad input: says what was given, what is allowed and what to do, in one sentence."""
