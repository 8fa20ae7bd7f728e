"""The error that every command turns into one clear sentence and exit status 2."""


class InputError(ValueError):
    """Input that cannot be used.

    The message is one sentence for a user: it names the file, the field and the remedy.
    """
