"""A training run: what the `train` section of a spec plans, or so many tokens, and how long that takes."""

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


class Cluster(Struct, frozen=True):
    """Devices that train together. flops_per_s: what each can do, by `source`; mfu: the share of it that training reaches, in model
    FLOPs (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
    """

    devices: int
    device: str | None
    flops_per_s: float
    source: str
    mfu: float

    def seconds(self, flops: Dim) -> float:
        """Time that so many model FLOPs take all devices together."""
        return float(flops) / (self.devices * self.flops_per_s * self.mfu)

    def device_hours(self, flops: Dim) -> float:
        return self.seconds(flops) * self.devices / 3600

    def flops(self, device_hours: int) -> int:
        """Model FLOPs that they do in so many hours of one device."""
        return round(device_hours * 3600 * Fraction(self.flops_per_s) * Fraction(str(self.mfu)))


class Spent(Struct, frozen=True):
    """What a run took: hours of one device, which can do flops_per_s by `source`."""

    device_hours: int
    device: str | None
    flops_per_s: float
    source: str

    def mfu(self, flops: Dim) -> float:
        """The share of its peak that so many model FLOPs in that time are."""
        return float(flops) / (self.device_hours * 3600 * self.flops_per_s)


def training_run(spec: Spec, report: Report, tokens: int | None = None) -> TrainingRun | None:
    """Steps as given, or whole steps that see at least so many tokens: `tokens`, or those of the spec; None where nothing says it.

    report: an account of the spec: its sequence length and its convention are those of the run, and its batch is that of a step where
    the spec has none.
    """
    train = spec.train
    tokens, steps = (tokens, None) if tokens or not train else (train.tokens, train.steps)
    if not (steps or tokens):
        return None
    batch = train.batch_size if train else report.work.batch
    per_step = batch * report.plan.seq_len
    steps = steps or -(-tokens // per_step)
    one = Fraction(report.flops.train_step) / report.work.batch
    return TrainingRun(steps, batch, steps * per_step, whole(one * batch * steps))
