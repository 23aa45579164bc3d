"""What a caller tells apart.

Every message has three parts in one line: what was given, what was expected, how to mend it. The command line
prints that line and leaves with status 2; it never prints a traceback for one of these.
"""


class RayAppError(Exception):
    """Base of all errors that a user can mend."""


class SpecError(RayAppError):
    """A YAML file, an option or an argument is wrong; nothing has started yet."""


class DataError(RayAppError):
    """A dataset cannot be read, is empty, changed under a resumed run, or lacks a column."""


class BundleError(RayAppError):
    """A bundle is damaged, truncated, newer than this program, or reaches outside its folder."""


class NotFittedError(RayAppError):
    """A method was asked to score before it had learned anything."""


class RunError(RayAppError):
    """A run on the cluster could not start or did not finish."""
