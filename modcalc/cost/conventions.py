"""The published conventions, as data over the ledger's rows.

A convention that is printed for training only (6ND and its kin) has a forward pass of a third of it, unless it says otherwise.
"""

from msgspec.structs import replace

from modcalc.cost.convention import EMBEDDINGS, Convention, Term, Terms, times
from modcalc.cost.ops import CAUSAL
from modcalc.errors import UsageError
from modcalc.spec.near import hint

PRODUCTS: Terms = (Term(2, "products"),)
PARAMS: Terms = (Term(2, "params"),)
ATTENTION: Terms = (Term(2, "products", only=("kind:attention",)),)
SOFTMAX: Terms = (Term(3, "elements", only=("what:softmax",)),)
NO_HEAD: Terms = (Term(2, "products", but=("path:head",)),)

MATMUL = Convention(
    "matmul",
    "every matrix product at 2 FLOPs per multiply-add, attention over all T x T pairs; lookup, norms, softmax and elementwise work free",
    "the products of Kaplan et al. 2020 (arXiv 2001.08361, table 1), but both of attention over all pairs, and routers",
    PRODUCTS,
    (Term(1, "gradients"),),
)


def _thirds(name: str, counts: str, citation: str, forward: Terms, causal: str | None = "full") -> Convention:
    """A convention whose backward pass is twice its forward pass, row by row."""
    return Convention(name, counts, citation, forward, times(2, forward), causal=causal)


_ALL = (
    MATMUL,
    replace(
        MATMUL,
        name="causal-half",
        counts="matrix products, attention over half of the T x T pairs, in a window at most the pairs that it holds",
        citation="Megatron-LM (num_floating_point_operations) and MaxText (train FLOPs with the causal mask), which have no windows there",
        causal="half",
    ),
    replace(
        MATMUL,
        name="causal-exact",
        counts="matrix products, attention over the pairs that the causal mask and the window leave, (T + 1) / 2 per query without a window",
        citation="nanochat (prefill); OLMo-core 3.0 (Attention.num_flops_per_token)",
        causal="exact",
    ),
    _thirds(
        "6nd",
        "6 FLOPs per parameter and token trained, N = all parameters; forward a third of it",
        "Kaplan et al. 2020 (arXiv 2001.08361, section 2.1), N as in Brown et al. 2020 (arXiv 2005.14165, table D.1) and Hoffmann et al. 2022 "
        "(arXiv 2203.15556, appendix F)",
        PARAMS,
        None,
    ),
    _thirds(
        "kaplan",
        "2 FLOPs per parameter and token forward, 6 trained, N without the tables of tokens and positions and without the head, but with "
        "biases and norms; no attention pairs",
        "Kaplan et al. 2020 (arXiv 2001.08361, section 2.1)",
        (Term(2, "params", but=tuple(f"path:{path}" for path in EMBEDDINGS)),),
        None,
    ),
    _thirds(
        "palm",
        "6 N + 12 L H N_head T FLOPs per token trained, N without learned positions, a tied table kept; forward a third of it",
        "Chowdhery et al. 2022 (PaLM, arXiv 2204.02311, appendix B); nanoGPT (estimate_mfu)",
        (Term(2, "params", but=("path:embedding.positions",)), *ATTENTION),
    ),
    _thirds(
        "chinchilla-printed",
        "matrix products, the token lookup as one (2 V D FLOPs per token) and 3 FLOPs per score for the softmax",
        "Hoffmann et al. 2022 (Chinchilla, arXiv 2203.15556, appendix F)",
        (*PRODUCTS, Term(2, "params", only=("path:embedding.tokens",)), *SOFTMAX),
    ),
    _thirds(
        "chinchilla",
        "matrix products without the logits, and 3 FLOPs per score for the softmax: as Chinchilla's table A4 was computed",
        "Hoffmann et al. 2022 (Chinchilla, arXiv 2203.15556, table A4)",
        (*NO_HEAD, *SOFTMAX),
    ),
    replace(
        MATMUL,
        name="megatron",
        counts="matrix products, the forward pass of every block computed a second time for the backward pass",
        citation="Narayanan et al. 2021 (Megatron-LM, arXiv 2104.04473, section 5.1, equation 3)",
        backward_terms=times(2, PRODUCTS),
        recompute_terms=(Term(2, "products", only=("part:block",)),),
    ),
    _thirds(
        "megatron-no-recompute",
        "matrix products three times: 72 B S L h^2 (1 + S/6h + V/12Lh) for a plain MLP of 4h",
        "Korthikanti et al. 2022 (arXiv 2205.05198, appendix A, model FLOPs)",
        PRODUCTS,
    ),
    _thirds(
        "torchtitan",
        "6 FLOPs per active parameter and token trained without embedding tables (with a tied head, with them), and attention over "
        "all pairs; forward a third of it",
        "torchtitan from May to August 2026 (torchtitan/models/utils.py, get_dense_model_nparams_and_flops)",
        (Term(2, "active params", but=("lookup:untied",)), *ATTENTION),
    ),
    _thirds(
        "olmo-core",
        "6 FLOPs per active parameter and token trained without embedding tables (a tied one counts as the head), and attention over "
        "T x min(window, T); forward a third of it",
        "OLMo-core 2.5 (num_flops_per_token of its modules), but with the norms of blocks, as 2.4 has them",
        (Term(2, "active params", but=("kind:lookup",)), Term(2, "tied params"), *ATTENTION),
        "window",
    ),
    _thirds(
        "litgpt",
        "2 FLOPs per parameter and token, all parameters, and attention with D in place of heads x head_dim (4 L D T)",
        "litgpt (litgpt/utils.py, estimate_flops)",
        (*PARAMS, Term(2, "width pairs")),
    ),
    Convention(
        "lingua",
        "6 FLOPs per parameter and token trained without the token table; half of the attention pairs, D wide, 3.5 times: the scores recomputed",
        "Meta Lingua (lingua apps/main/transformer.py, get_num_flop_per_token)",
        (Term(2, "params", but=("path:embedding.tokens",)), Term(2, "width pairs")),
        (Term(4, "params", but=("path:embedding.tokens",)), Term(4, "width pairs")),
        (Term(1, "width pairs"),),
        causal="half-of-all",
    ),
    _thirds(
        "levanter",
        "matrix products and 3 FLOPs per score for the mask",
        "Levanter (levanter/utils/flop_utils.py, lm_flops_per_token)",
        (*PRODUCTS, *SOFTMAX),
    ),
    _thirds(
        "deepseek",
        "matrix products without the logits: 72 L D^2 + 12 L D S per token trained for a plain MLP of 4D and ungrouped heads; forward a "
        "third of it",
        "DeepSeek LLM (arXiv 2401.02954, section 3.2, M = 72 n_layer d_model^2 + 12 n_layer d_model l_seq)",
        NO_HEAD,
    ),
    replace(
        _thirds(
            "fvcore",
            "1 per multiply-add; attention 0, as fused attention has no formula (here also where sinks or soft caps forbid it); experts as "
            "products; LayerNorm 5 per entry, 4 without weight; training as 3 forward passes",
            "fvcore 0.1.5 (fvcore/nn/flop_count.py, jit_handles.py), a forward pass through scaled_dot_product_attention",
            (
                Term(1, "products", but=("kind:attention",)),
                Term(4, "elements", only=("norm:layernorm",)),
                Term(1, "elements", only=("norm:layernorm with weight",)),
            ),
            None,
        ),
        multiply_add=1,
    ),
)  # fmt: skip

CONVENTIONS = {c.name: c for c in _ALL}


def find_convention(name: str | Convention = "matmul", causal: str | None = None) -> Convention:
    """The convention called `name` (or one of the caller's own), with another rule for attention pairs if `causal` is given.

    Raises UsageError for a name that there is not, and for a `causal` that there is not or that would change nothing.
    """
    rule = name if isinstance(name, Convention) else CONVENTIONS.get(name) if isinstance(name, str) else None
    if rule is None:
        raise UsageError(f"convention {name!r}: there are {', '.join(CONVENTIONS)}{hint(str(name), CONVENTIONS)}")
    if causal is None:
        return rule
    if causal not in CAUSAL:
        raise UsageError(f"causal {causal!r}: one of {', '.join(CAUSAL)}")
    if rule.causal is None:
        raise UsageError(f"convention {rule.name}: it counts no pairs of tokens, so causal {causal} would change nothing; leave it out")
    if causal == rule.causal:
        return rule
    same = CONVENTIONS.get(f"causal-{causal}") if rule is MATMUL else None
    counts = same.counts if same else f"{rule.counts}; causal {causal} in place of its own rule for pairs of tokens"
    return replace(rule, causal=causal, counts=counts)
