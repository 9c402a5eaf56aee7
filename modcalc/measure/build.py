"""Spec or Plan -> torch module."""

from typing import TYPE_CHECKING

from modcalc.errors import UsageError, first_line
from modcalc.measure import hardware
from modcalc.spec.near import hint
from modcalc.spec.plan import Plan
from modcalc.spec.resolve import resolve
from modcalc.spec.schema import Spec
from modcalc.units import whole_number

if TYPE_CHECKING:
    import torch

    from modcalc.models.decoder import Decoder

DTYPES = {"fp64": "float64", **hardware.DTYPES}


def build(
    spec: Spec | Plan,
    *,
    seq_len: int | None = None,
    device: "str | torch.device" = "cpu",
    dtype: "str | torch.dtype | None" = None,
    attention: str = "sdpa",
    seed: int = 0,
) -> "Decoder":
    """The torch model of a spec, or of a plan made from one, in training mode.

    seq_len: T (default: the spec's; a plan has its own). device: on "meta" it takes no memory. dtype: float32, bfloat16,
    float16 or float64, their short names, or a torch.dtype (default: torch's). attention: "sdpa" or "explicit". seed:
    equal seeds give equal weights on one kind of device, and torch's global generator is left as it was.

    Raises MissingDependency without torch, UsageError for a device, dtype, attention or seed that there is not, or seq_len
    that contradicts a plan.
    """
    torch = hardware.import_torch()
    from modcalc.models.decoder import Decoder

    plan = spec if isinstance(spec, Plan) else resolve(spec, seq_len)
    if seq_len is not None and seq_len != plan.seq_len:
        raise UsageError(f"{plan.name}: the plan is for {plan.seq_len} tokens, not {seq_len}; resolve the spec again for another length")
    if not all(group.layers for group in plan.groups):
        raise UsageError(f"{plan.name}: a plan over a lattice of shapes cannot be built; resolve one spec")
    seed = whole_number(seed, "seed")
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed {seed}: allowed 0 to 2^64 - 1")
    where, kind = _device(device), _dtype(dtype)
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=_generators(where)), where:
        torch.manual_seed(seed)
        try:
            torch.set_default_dtype(kind)
            return Decoder(plan, attention=attention)
        finally:
            torch.set_default_dtype(default)


def _device(device: "str | torch.device") -> "torch.device":
    import torch

    try:
        where = torch.device(device)
        if where.type != "meta":
            torch.empty(0, device=where)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise UsageError(f"device {str(device)!r} cannot be used: {first_line(error)}") from error
    return where


def _generators(device: "torch.device") -> list["torch.device"]:
    """Devices beside the CPU whose random state must be kept."""
    return [device] if device.type == "cuda" else []


def _dtype(dtype: "str | torch.dtype | None") -> "torch.dtype":
    import torch

    if dtype is None:
        return torch.get_default_dtype()
    known = {name: getattr(torch, full) for short, full in DTYPES.items() for name in (short, full)}
    found = known.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise UsageError(f"dtype {str(dtype)!r}: one of {', '.join(DTYPES.values())}{hint(str(dtype), known)}")
    return found
