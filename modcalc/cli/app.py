"""The command line's frame: finds a command, runs it, and turns every failure into one message and an exit code."""

import os
import re
import sys
import traceback
from collections import Counter
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from typing import TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from modcalc.errors import ModcalcError, UsageError

# name -> help. A command `name` is the function of that name in modcalc.cli.<name> ("import" -> import_); nothing else is loaded.
COMMANDS = {
    "flops": "FLOPs and parameters of specs, analytic and by counters",
    "conventions": "One model under every published counting convention",
    "memory": "Weights, optimizer, activations and KV cache in bytes; what fits",
    "isoflop": "Configurations that match a compute budget, or another model's cost",
    "family": "Shapes at constant parameters or FLOPs",
    "check": "Hold specs to their budgets; for CI",
    "diff": "What changed in cost between two specs, and which component caused it",
    "profile": "Measured step times, against the FLOPs that were promised",
    "results": "Tables and plots of what profile measured, on any machine",
    "import": "A spec from a config.json of the transformers library",
    "specs": "List the shipped specs",
    "schema": "JSON Schema of a spec, for editors",
}


class Once(TyperCommand):
    """Refuses an option that is given again and takes one value, and both spellings of a flag: the parser would drop the first without a word."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        given = Counter(self.make_parser(ctx).parse_args(args=[*args])[2])
        if any(option.name == "help" for option in given):
            return super().parse_args(ctx, args)
        for option, n in given.items():
            both = [next((word for word in spelt if word in args), None) for spelt in (option.opts, option.secondary_opts)]
            if n > 1 and all(both):
                raise UsageError(f"{' and '.join(both)}: they contradict each other; leave one out")
            if n > 1 and not option.multiple and not option.is_flag:
                joined = f"; its pairs are joined by commas: {option.opts[0]} {option.metavar}" if option.opts[0] == "--mod" else ""
                raise UsageError(f"{option.opts[0]}: given {n} times, and takes one value{joined}")
        return super().parse_args(ctx, args)


class Commands(TyperGroup):
    """Imports a command's module only when that command is asked for; the list of all is told by COMMANDS alone."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str) -> object:
        if cmd_name not in COMMANDS:
            near = get_close_matches(cmd_name, COMMANDS, 1, 0.5)
            ctx.fail(f"No such command {cmd_name!r}. " + (f"Did you mean {near[0]}?" if near else f"There are {', '.join(COMMANDS)}."))
        module = import_module(f"modcalc.cli.{cmd_name}_" if cmd_name == "import" else f"modcalc.cli.{cmd_name}")
        # Plain help: the rich one takes "[default: …]" in a help text for markup and drops it.
        one = typer.Typer(add_completion=False, rich_markup_mode=None)
        one.command(name=cmd_name, cls=Once)(getattr(module, f"{cmd_name}_" if cmd_name == "import" else cmd_name))
        return typer.main.get_command(one)

    def format_commands(self, ctx: typer.Context, formatter: object) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(
    cls=Commands, add_completion=False, no_args_is_help=True, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"modcalc {version('modcalc')}")
        raise typer.Exit


@app.callback()
def modcalc(
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version and exit."),
) -> None:
    """What a transformer costs, dense or Mixture-of-Depths."""


def main() -> None:
    """Entry point. Exit codes: 0 done and true, 1 a check or agreement failed, 2 cannot be served, 130 interrupted."""
    # A stream that the caller closed is None, and print(file=None) would write to the other one.
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), Heedless(sys.stderr or _nowhere())
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    command, code = typer.main.get_command(app), 0
    try:
        # Not command(): it turns a closed pipe and Ctrl-C into exit codes of its own.
        with command.make_context("modcalc", sys.argv[1:]) as context:
            command.invoke(context)
    except typer.Exit as stop:
        code = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        code = 130
    except ModcalcError as wrong:
        _traceback(debug)
        for line in str(wrong).splitlines():
            print(f"error: {line}" if not line.startswith(" ") else line, file=sys.stderr)
        code = wrong.exit_code
    except BrokenPipeError:
        from modcalc.render.output import discard_stdout

        discard_stdout()
    except OSError as wrong:
        # Files that a user names are reported where they are opened; what is left is a full disk behind stdout or a report, and
        # folders on the way to a file that may not be entered.
        _traceback(debug)
        print(f"error: {wrong.filename or 'cannot write'}: {wrong.strerror or wrong}", file=sys.stderr)
        code = 2
    except Exception as bug:
        # Usage errors: click's class or typer's own copy of it, by version.
        if hasattr(bug, "format_message") and hasattr(bug, "exit_code"):
            _usage(bug)
            sys.exit(2)
        _traceback(debug)
        report = "report what is printed above" if debug else "run again with --debug and report what it prints"
        print(f"internal error: {type(bug).__name__}: {bug}\n  this is a defect of modcalc; {report}", file=sys.stderr)
        code = 2
    sys.exit(code)


class Heedless:
    """stderr that may be full or have no reader: text that cannot be said there changes neither the work nor its exit code. All else
    is the stream's own.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


def _traceback(debug: bool) -> None:
    """With --debug what Python knows of an error, before the message and the exit code that it has without."""
    if debug:
        traceback.print_exc(file=sys.stderr)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _usage(wrong: Exception) -> None:
    """One message, as for every other error, and where the options are described; the help itself where nothing was asked."""
    if len(sys.argv) < 2:
        return print(wrong.format_message(), file=sys.stderr)
    context = getattr(wrong, "ctx", None)
    said = wrong.format_message().replace("valid int range", "valid integer")
    print(f"error: {said}{_sweep(context, getattr(wrong, 'param', None), said)}", file=sys.stderr)
    print(f"  options: {context.command_path if context else 'modcalc'} --help", file=sys.stderr)


def _sweep(context: typer.Context | None, option: object, said: str) -> str:
    """What to write for a list of numbers, where the command takes one for what should be a single number."""
    listed = re.search(r"'(\d+(,\d+)+)' is not a valid integer", said)
    name = getattr(option, "name", "")
    if not listed or name not in ("batch", "seq_len", "context") or not any(p.name == "sweep" for p in context.command.params):
        return ""
    return f" Several values: --sweep {name.replace('_', '-')}={listed[1]}"


if __name__ == "__main__":
    main()
