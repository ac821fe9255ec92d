"""Expected errors as Prefect states: one line in the log and in the UI, without a traceback."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from prefect.states import Failed

from models.errors import HerdlightError

P = ParamSpec("P")
R = TypeVar("R")


def failing_in_one_line(function: Callable[P, R]) -> Callable[P, R]:
    """Let a task or flow function end as Failed with the message of its HerdlightError; a caller gets it raised.

    Any other exception keeps its traceback: it is a fault of ours and not a message for the user.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except HerdlightError as error:
            return cast(R, Failed(message=str(error), data=error))  # Prefect takes a state for the outcome

    return wrapped
