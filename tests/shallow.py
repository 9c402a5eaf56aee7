"""Work in a thread of its own, whose stack is short."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def shallow(work: Callable[P, R]) -> Callable[P, R]:
    """As `work`, called from no depth: a trace of fvcore's writes down all frames at each operation, and pytest's are more than the model's."""

    @functools.wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(work, *args, **kwargs).result()

    return run
