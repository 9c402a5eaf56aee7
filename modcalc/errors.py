"""One exception family. The command line turns each into one message and an exit code; nothing else prints a traceback."""


class ModcalcError(Exception):
    """Something that the user can mend: the message says what, where and what to do."""

    exit_code = 2


class UsageError(ModcalcError):
    """An argument, or a combination of arguments, that cannot be served."""


class SpecError(ModcalcError):
    """A spec that cannot be read; `problems` holds every one found."""

    def __init__(self, problems: "list[str]") -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class MissingDependency(ModcalcError):
    """Something that is not installed or not on this machine (torch, a GPU)."""


class CountFailed(ModcalcError):
    """A counter cannot count a model. `unseen`: operator -> calls, where an operator without a formula is the reason."""

    exit_code = 1

    def __init__(self, message: str, unseen: "dict[str, int] | None" = None) -> None:
        self.unseen = unseen or {}
        super().__init__(message)


def demand_name(option: str, file: str) -> None:
    """Raises UsageError where a file's name is empty, as a variable of a shell leaves it that is not set."""
    if not file:
        raise UsageError(f"{option} '': an empty name; is a variable not set?")


def first_line(error: BaseException) -> str:
    """What an exception says, without the stack or list that torch appends; its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def reason(error: Exception) -> str:
    """An exception in one line: its class, and what it says."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"
