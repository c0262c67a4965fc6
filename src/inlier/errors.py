"""The one kind of error that is shown to a person without a traceback."""


class InlierError(ValueError):
    """Something the user can mend. The message says what is wrong, where, and what to do."""
