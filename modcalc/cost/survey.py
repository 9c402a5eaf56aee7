"""One model under every published convention."""

from fractions import Fraction

from msgspec import Struct

from modcalc.cost.account import Flops, Report, account, count_flops
from modcalc.cost.convention import Convention
from modcalc.cost.conventions import CONVENTIONS, MATMUL
from modcalc.cost.ops import whole
from modcalc.spec.plan import Dim
from modcalc.spec.schema import Spec


class Entry(Struct, frozen=True):
    """A convention's FLOPs of a train step of all sequences, and its relative differences to the matmul count."""

    convention: Convention
    flops: Flops
    train_per_token: Dim
    forward_difference: Fraction
    train_difference: Fraction


def survey(spec: Spec, *, seq_len: int | None = None, batch: int = 1) -> tuple[Report, list[Entry]]:
    """(the report by matmul, an entry for each convention). Raises UsageError as `account` does."""
    report = account(spec, seq_len=seq_len, batch=batch, phase="train", convention=MATMUL)
    exact, entries = report.flops, []
    for convention in CONVENTIONS.values():
        f = count_flops(report.rows, report.work, convention)
        entries.append(
            Entry(
                convention,
                f,
                whole(Fraction(f.train_step) / report.work.tokens),
                Fraction(f.forward) / Fraction(exact.forward) - 1,
                Fraction(f.train_step) / Fraction(exact.train_step) - 1,
            )
        )
    return report, entries
