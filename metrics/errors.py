"""The one exception for what a user can mend. It lives in the lowest package because all others raise it."""


class InputError(ValueError):
    """A mistake in what the user gave: data, config, command.

    The message names the file, line or key and says what to do. Entry points print it without a traceback.
    """
