"""What a model occupies, in bytes: folds over the ledger's rows."""

from modcalc.cost.ledger import Workload, ledger
from modcalc.cost.ops import AttentionCore, whole
from modcalc.errors import UsageError
from modcalc.spec.plan import Dim, Plan, least

# Bytes of one element.
DTYPES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2}


def element_bytes(dtype: str) -> int:
    """Bytes of one element of `dtype`. Raises UsageError for a name that is not in DTYPES."""
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype!r}: one of {', '.join(DTYPES)}")
    return DTYPES[dtype]


def kv_cache_bytes(plan: Plan, context: int, dtype: str = "bf16", batch: int = 1, routing: str = "expected") -> Dim:
    """Bytes of keys and values of `context` tokens in each of `batch` sequences.

    Plain attention holds K (N + N_v) elements per token and layer, latent attention one latent and one rotary key
    (DeepSeek-V2, arXiv 2405.04434, section 2.1.2); a window's cache holds at most the tokens that one may see. A
    routed block (or recursion) holds only the tokens that it kept: the expected share of them, all or none, as `routing`
    says; an expectation may be a Fraction. Raises UsageError for a dtype or routing that there is not.
    """
    work = Workload(batch, 1, max(context - 1, 0), "decode", routing)
    elements = 0
    for op in ledger(plan, work):
        if isinstance(op, AttentionCore):
            # At decode `tokens` is the share of tokens that pass; a window's cache holds as many of them as it is wide.
            held = op.tokens * context if op.window is None else least(op.tokens * context, op.window)
            elements = elements + op.repeat * op.batch * held * op.cached_width
    return whole(elements * element_bytes(dtype))
