"""Option types that commands share, so that a flag means the same everywhere. Help texts state the default."""

from collections.abc import Iterable, Sequence, Set
from math import isfinite
from typing import Annotated, Any, Literal

import typer

from modcalc.errors import UsageError
from modcalc.spec.schema import MAX_SIZE


def option(*names: str, help: str, **more: Any) -> Any:
    """One whose help text states the default, where there is one to state."""
    return typer.Option(*names, help=help, show_default=False, **more)


Specs = Annotated[
    list[str],
    typer.Argument(
        metavar="SPEC...", help="Spec files, shipped names (modcalc specs), or config.json of the transformers library.", show_default=False
    ),
]
OneSpec = Annotated[
    str, typer.Argument(metavar="SPEC", help="A spec file, a shipped name (modcalc specs), or a config.json of the transformers library.")
]
AsMod = Annotated[
    str | None,
    option(
        "--mod",
        metavar="KEY=VALUE,…",
        help="As a Mixture-of-Depths model: keys of a spec's mod section, as in capacity=0.125,every=2; lists as in layers=1+3+5.",
    ),
]
SeqLen = Annotated[int | None, option("--seq-len", "-T", min=1, max=MAX_SIZE, help="Tokens of each sequence. [default: the spec's]")]
Batch = Annotated[int, typer.Option("--batch", "-B", min=1, max=MAX_SIZE, help="Sequences.")]
Context = Annotated[
    int | None,
    option("--context", "-S", min=0, max=MAX_SIZE, help="Tokens already cached (prefill: default 0; decode: required)."),
]
PhaseName = Literal["forward", "train", "prefill", "decode"]
Phase = Annotated[PhaseName, typer.Option("--phase", "--mode", help="What is computed.")]
Causal = Annotated[
    Literal["full", "half", "exact"] | None,
    option("--causal", help="Attention pairs that count: all T x T, half, or those a causal mask leaves. [default: the convention's]"),
]
ConventionName = Annotated[str, typer.Option("--convention", metavar="NAME", help="Whose rules count (modcalc conventions SPEC lists them).")]
Macs = Annotated[bool, typer.Option("--macs", help="Print multiply-adds, 1 each, instead of FLOPs, 2 each.")]
Sweep = Annotated[
    list[str] | None,
    option("--sweep", metavar="NAME=A,B,…", help="Points over batch, seq-len or context; may be given again."),
]
Format = Annotated[
    Literal["table", "plain", "markdown", "latex", "csv", "json"] | None,
    option("--format", "-f", help="[default: table on a terminal, else plain]"),
]
Plot = Annotated[str | None, option("--plot", metavar="FILE", help="Draw it into FILE (.svg or .png).")]
Recompute = Annotated[
    Literal["none", "selective", "full"] | None,
    option(
        "--recompute",
        help="Activations computed again for the backward pass: none, of attention, of every block. [default: none]",
    ),
]
AttentionKernel = Annotated[
    Literal["fused", "explicit"] | None,
    option("--attention", help="One kernel that keeps no scores, or products that keep them. [default: fused]"),
]


def check_decode(option: str, phase: str, context: bool, seq_len: bool, causal: str | None = None) -> None:
    """Raises UsageError where a decode step, which `option` asked for, has no context, a length, or a share of its pairs. context, seq_len:
    whether given.
    """
    if phase == "decode" and not context:
        raise UsageError(f"{option} decode: say how many tokens are already cached with --context S")
    if phase == "decode" and seq_len:
        raise UsageError(f"--seq-len with {option} decode: it computes one token per sequence; give the tokens before it by --context")
    if phase == "decode" and causal not in (None, "full"):
        raise UsageError(f"--causal {causal} with {option} decode: its one token sees all that is cached, and all of it is billed")


def given(ctx: typer.Context) -> set[str]:
    """Names of the options that the user wrote."""
    return {name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"}


def swept(words: Set[str], sweep: Sequence[str]) -> set[str]:
    """Names of the settings in --sweep. Raises UsageError for one that is also among the options that the user wrote, which `words` are."""
    names = {text.partition("=")[0].strip().replace("-", "_") for text in sweep}
    if both := words & names:
        raise UsageError(f"{flags(both)}: swept and given; give all its values in --sweep")
    return names


def finite(numbers: dict[str, float | None]) -> None:
    """Raises UsageError for an option, by name, whose value is infinite or no number."""
    for name, value in numbers.items():
        if value is not None and not isfinite(value):
            raise UsageError(f"{flags([name])} {value}: a finite number")


def flags(names: Iterable[str]) -> str:
    """Options as the user writes them, of the names that they have here."""
    return ", ".join(f"--{name.replace('_', '-')}" for name in sorted(names))
