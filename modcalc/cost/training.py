"""The training run that the `train` section of a spec plans."""

from fractions import Fraction

from msgspec import Struct

from modcalc.cost.account import Report
from modcalc.cost.ops import whole
from modcalc.spec.plan import Dim
from modcalc.spec.schema import Spec


class TrainingRun(Struct, frozen=True):
    """steps: optimizer steps, of batch_size sequences; tokens: all that they see; flops: of all steps, forward and backward."""

    steps: int
    batch_size: int
    tokens: int
    flops: Dim


def training_run(spec: Spec, report: Report) -> TrainingRun | None:
    """Steps as given, or whole steps that see at least train.tokens; None where the spec gives neither.

    report: an account of the spec, of any batch: its sequence length and its convention are those of the run.
    """
    train = spec.train
    if train is None or (train.steps is None and train.tokens is None):
        return None
    per_step = train.batch_size * report.plan.seq_len
    steps = train.steps or -(-train.tokens // per_step)
    one = Fraction(report.flops.train_step) / report.work.batch
    return TrainingRun(steps, train.batch_size, steps * per_step, whole(one * train.batch_size * steps))
