"""Names of files, folders and categories, for people and for file systems; a name may hold anything. And how many there
are, in words."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence

LONGEST = 255  # bytes of a file's name that all usual file systems take
SUFFIX = 16  # bytes; what is longer after a dot tells no kind of file


def shown(name: object) -> str:
    r"""A name in one line: control characters, line breaks, signs that turn the reading direction, and bytes that are
    no valid text become backslash escapes. What a console cannot show is the console's matter (`cli.main`).

    >>> print(shown("a\n good  b"))
    a\n good  b
    """
    return "".join(map(_shown, str(name)))


def shown_message(text: object) -> str:
    r"""A message of ours, whose further lines are indented; any other line break belongs to a name, and is escaped."""
    return "\n  ".join(map(shown, str(text).split("\n  ")))


def _shown(sign: str) -> str:
    if sign.isprintable() or unicodedata.category(sign) == "Zs":  # spaces of all kinds
        return sign
    if 0xDC80 <= ord(sign) <= 0xDCFF:  # Python's stand-in for a byte that is no valid text
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode()


def shorten(name: str) -> str:
    """The name, or where it is too long for a file, its start and a hash of all of it; its suffix stays."""
    if _bytes(name) <= LONGEST:
        return name
    stem, suffix = os.path.splitext(name)
    if _bytes(suffix) > SUFFIX:
        stem, suffix = name, ""
    ending = f"-{_hash(name)}{suffix}"
    while _bytes(stem + ending) > LONGEST:
        stem = stem[:-1]
    return stem + ending


def file_name(text: str) -> str:
    """A file's name for any text, such as a category: without separators, not too long, another for every text. A
    suffix stays at its end.

    >>> file_name("A.csv"), file_name("A/B.csv")
    ('A.csv', 'A_B-ed35e1af.csv')
    """
    clean = re.sub(r"[/\\\0]", "_", text)
    if clean == text:
        return shorten(text)
    stem, suffix = os.path.splitext(clean)
    return shorten(f"{stem}-{_hash(text)}{suffix}")


def counted(n: int, what: str) -> str:
    """For people: a number and what it counts, with what differs between one and several.

    >>> counted(1, "picture<|s> <is|are> not used"), counted(2, "picture<|s> <is|are> not used")
    ('1 picture is not used', '2 pictures are not used')
    """
    return f"{n} {agreeing(n, what)}"


def agreeing(n: int, what: str) -> str:
    """`counted` without the number."""
    return re.sub(r"<([^<|>]*)\|([^<|>]*)>", r"\1" if n == 1 else r"\2", what)


def first_names(names: Sequence[str]) -> str:
    """Three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _bytes(name: str) -> int:
    return len(name.encode(errors="backslashreplace"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]
