"""The errors that are shown to a person without a traceback, and words that several of them share."""

WRITTEN = {"alpha": "5 % is written 0.05, with a point", "confidence": "95 % is written 0.95, with a point"}


class InlierError(ValueError):
    """Something the user can mend. The message says what is wrong, where, and what to do."""


class ImageError(InlierError):
    """One image cannot be used. The message is "PATH: reason"."""


class ArtifactError(InlierError):
    """The file cannot be read as an artifact, or not be written; the message says why and what to do."""


class OutOfTime(InlierError):
    """A fit would not end within the time that it was given; raised as soon as that is clear."""
