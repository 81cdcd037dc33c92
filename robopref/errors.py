"""The errors that a caller may want to handle, and what sentences to people have in common.

Every message says what was wrong, what was got, and what would have been right.
"""

import difflib
import re
from collections.abc import Iterable


class RoboprefError(Exception):
    """Base of all errors raised on purpose; the command line prints them without a traceback."""


class ConfigError(RoboprefError, ValueError):
    """An option is unknown, or its value makes no sense."""


class DataError(RoboprefError, ValueError):
    """A file or an array is truncated, foreign, of the wrong shape, or holds NaN."""


class WaitingError(DataError):
    """People have to answer before a run can go on; the message says how they do."""


class DeviceError(RoboprefError, RuntimeError):
    """The device that was asked for is not there."""


class RenderingError(RoboprefError, RuntimeError):
    """Frames were asked for and no OpenGL back end can draw them."""


class DivergedError(RoboprefError, ArithmeticError):
    """Training met a loss or gradient that is not finite; the batch was saved."""


class MissingExtraError(RoboprefError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def unknown_name(kind: str, got: str, known: Iterable[str]) -> str:
    """Return the sentence for a name that does not exist, with the nearest one that does.

    >>> unknown_name("task", "drawer_open", ["drawer-open", "door-close"])
    "No task is called 'drawer_open'. Did you mean 'drawer-open'? There are: door-close, drawer-open."
    """
    names = sorted(known)
    near = difflib.get_close_matches(got, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"No {kind} is called '{got}'.{hint} There are: {', '.join(names) or 'none'}."


def counted(number: int, thing: str) -> str:
    """Return how many things there are, in words.

    >>> counted(1, "answer"), counted(2, "answer")
    ('1 answer', '2 answers')
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"


def hide_passwords(text: str) -> str:
    """Return a text as it may be printed: with three asterisks for each password of a URL in it.

    >>> hide_passwords("postgresql://me:hunter2@team/db?sslmode=require&sslpassword=x")
    'postgresql://me:***@team/db?sslmode=require&sslpassword=***'
    """
    # A name and a password may hold @ and spaces, so all up to the last @ of a line is hidden, unless it
    # begins like a port: in a sentence rather too much than too little.
    before_host = r"(^['\"]?[^:/\s]*:(?!//|\s)|://[^:/\n]*:)(?:(?!\d+[/?])[^\n]*|\S*)@"
    in_query = r"(?i)([?&][\w.-]*(?:password|passwd|pwd|secret|token)\w*=)[^&\s]+"
    return re.sub(before_host, r"\1***@", re.sub(in_query, r"\1***", text))
