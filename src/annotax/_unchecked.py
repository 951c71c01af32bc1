"""What is said of annotations that are wrong, or that nothing can judge.

Fields and methods say it alike: at once and as an error, or once and as a warning.
"""

import warnings

from ._errors import AnnotationError, AnnotationWarning, explain_error, level_of_user


def wrong_annotation(where: str, text: str, error: ValueError) -> AnnotationError:
    """The error for an annotation of which no check can be made."""
    wrong = f"the annotation is wrong: {error}"
    return AnnotationError(explain_error(where, wrong, found=text))


_warned: set[tuple[type, str]] = set()


def warn_unchecked(owner: type, where: str, text: str, reason: str) -> None:
    """Warn of an annotation that nothing can judge, once for a place in a class."""
    if (owner, where) in _warned:
        return
    unchecked = f"the annotation is not checked: {reason}"
    message = explain_error(where, unchecked, found=text)
    warnings.warn(message, AnnotationWarning, stacklevel=level_of_user())
    _warned.add((owner, where))  # not before: a warning may be an error, each time
