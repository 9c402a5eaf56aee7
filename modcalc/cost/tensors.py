"""Names and sizes of tensors."""

from typing import NamedTuple

from modcalc.errors import UsageError

# Bytes of one element.
DTYPES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}
DTYPE = "bf16"  # of models and caches, where nothing else is said


class Tensor(NamedTuple):
    """name: equal names of one layer are one tensor. type: model (the model's own), wide (at least fp32), index (int64) or mask (bool).

    component: where it counts, if not with the row that keeps it.
    """

    name: str
    entries: int
    type: str = "model"
    component: str = ""


def element_bytes(dtype: str, type: str = "model") -> int:
    """Bytes of one element of a tensor in a model of `dtype`. Raises UsageError for a dtype that is not in DTYPES."""
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: one of {', '.join(DTYPES)}")
    own = DTYPES[dtype]
    return {"model": own, "wide": max(own, 4), "index": 8, "mask": 1}[type]
