"""Signs of life on stderr while something takes long: a spinner or a bar on a terminal, one line elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner with `text` and the time since; where stderr is no terminal, the text once. Yields say(detail), which puts before it
    what is done right now.

    It moves twice a second only, for drawing takes time from what may be measured.
    """
    if not sys.stderr.isatty():
        print(f"{text} ...", file=sys.stderr, flush=True)
        yield lambda detail: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    # The end is what a narrow terminal lacks room for.
    columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=2) as shown:
        task = shown.add_task(text, total=None)
        yield lambda detail: shown.update(task, description=f"{detail}; {text}")


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over `total` steps; yields advance(n). Where stderr is no terminal, the text once."""
    if not sys.stderr.isatty():
        print(f"{text} ...", file=sys.stderr, flush=True)
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda n: bar.advance(task, n)
