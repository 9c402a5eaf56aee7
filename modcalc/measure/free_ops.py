"""Which operators cost nothing under the matmul convention: views, pointwise work, and the names listed here.

What is not known to be free must be counted: a matrix product that torch gains is then a failed count, not a wrong one.
"""

from collections.abc import Container, Mapping
from functools import lru_cache

import torch

from modcalc.errors import CountFailed

_NORMS = """
    _batch_norm_impl_index _fused_rms_norm batch_norm cudnn_batch_norm group_norm instance_norm layer_norm native_batch_norm
    native_group_norm native_layer_norm rms_norm
"""
_SOFTMAX_AND_LOSSES = """
    _log_softmax _safe_softmax _softmax binary_cross_entropy binary_cross_entropy_with_logits cross_entropy_loss glu huber_loss kl_div l1_loss
    log_sigmoid log_sigmoid_forward log_softmax logsumexp mse_loss nll_loss nll_loss_forward nll_loss_nd smooth_l1_loss softmax
    special_log_softmax special_logsumexp special_softmax
"""
_POINTWISE = """
    _prelu_kernel absolute divide floor_divide greater greater_equal hardswish isclose less less_equal multiply negative not_equal outer prelu
    special_expit special_expm1 special_log1p subtract
"""
_REDUCTIONS = """
    all amax amin aminmax any argmax argmin count_nonzero cummax cummin cumprod cumsum linalg_vector_norm logcumsumexp mean nansum norm prod
    std std_mean sum sum_to_size var var_mean
"""
_SELECTION = """
    _index_put_impl _unique2 _unsafe_index argsort argwhere bincount bucketize embedding embedding_dense gather histc index index_add index_copy
    index_fill index_put index_reduce index_select isin kthvalue masked_scatter masked_select median mode msort nonzero one_hot put scatter
    scatter_add scatter_reduce searchsorted select_scatter slice_scatter sort take take_along_dim topk unique_consecutive unique_dim
    value_selecting_reduction
"""
_MOVES = """
    _pad_circular _pad_enum _to_copy block_diag broadcast_tensors cat column_stack concat concatenate constant_pad_nd diag
    diag_embed dstack flip hstack lift meshgrid pad reflection_pad1d repeat repeat_interleave resize roll rot90 stack tile trace tril triu
    unsafe_chunk unsafe_split unsafe_split_with_sizes vstack
"""
_CREATION = """
    _efficientzerotensor _fill_mem_eff_dropout_mask alpha_dropout arange bernoulli complex dropout empty empty_like empty_permuted
    empty_strided exponential eye feature_dropout fill full full_like geometric linspace log_normal logspace multinomial native_dropout new_empty
    new_empty_strided new_full new_ones new_zeros normal normal_functional ones ones_like polar rand rand_like randint randint_like randn
    randn_like random randperm scalar_tensor tensor tril_indices triu_indices uniform zero zeros zeros_like
"""
_BOOKKEEPING = """
    Bool Float FloatImplicit Int IntImplicit ScalarImplicit __and__ __contains__ __getitem__ __is__ __isnot__ __not__ __or__ _assert_async
    _assert_scalar _assert_tensor_metadata _functional_assert_async _has_compatible_shallow_copy_type _is_all_true _is_any_true
    _local_scalar_dense _unsafe_view _version allclose data dim is_contiguous is_floating_point is_nonzero is_pinned is_same_size item len new_tensor
    numel requires_grad result_type set size storage_offset stride sym_is_contiguous sym_numel sym_size sym_storage_offset sym_stride
    tolist type_as warn
"""
_LISTS = (_NORMS, _SOFTMAX_AND_LOSSES, _POINTWISE, _REDUCTIONS, _SELECTION, _MOVES, _CREATION, _BOOKKEEPING)
FREE = frozenset(" ".join(_LISTS).split())
_SILENT = frozenset(_BOOKKEEPING.split())
# No tensor work at all: control flow and constants of a trace, device queries, profiler marks.
_SILENT_SPACES = ("prim", "profiler")
# A form of an operator is free if the operator is: in place, backward, or a view that copies.
_FORMS = ("_", "_backward", "_backward_data", "_copy")


@lru_cache(maxsize=4096)
def is_silent(operator: str) -> bool:
    """Whether `space::name` returns a view of its input, or is no tensor work at all: not worth listing."""
    space, _, name = operator.partition("::")
    if space in _SILENT_SPACES:
        # Autograd functions and scripted calls may hide anything; the one listed is torch's own, of checkpointing in 2.6.
        return name == "PythonOp._NoopSaveInputs" or not name.startswith(("PythonOp", "CallFunction"))
    return space == "aten" and name in _SILENT or any(op.is_view for op in _overloads(space, name))


@lru_cache(maxsize=4096)
def is_free(operator: str) -> bool:
    """Whether `space::name` is free by convention: a view, pointwise by torch's own tag, listed, or a form of such an operator."""
    space, _, name = operator.partition("::")
    if is_silent(operator) or space == "aten" and name in FREE:
        return True
    if any(torch.Tag.pointwise in op.tags for op in _overloads(space, name)):
        return True
    return any(name.endswith(form) and len(name) > len(form) and is_free(operator.removesuffix(form)) for form in _FORMS)


def _overloads(space: str, name: str) -> list:
    packet = getattr(torch.ops.aten, name, None) if space == "aten" else None
    return [] if packet is None else [getattr(packet, overload) for overload in packet.overloads()]


def free_or_fail(counter: str, calls: Mapping[str, int], counted: Container[str]) -> dict[str, int]:
    """Operators that were called and cost nothing, sorted by name, views and bookkeeping left out.

    Raises CountFailed where an operator is neither in `counted` nor free.
    """
    rest = {op: n for op, n in sorted(calls.items()) if op not in counted and not is_silent(op)}
    unseen = {op: n for op, n in rest.items() if not is_free(op)}
    if unseen:
        names = ", ".join(f"{op} ({n} call{'s' * (n > 1)})" for op, n in unseen.items())
        raise CountFailed(f"{counter} has no formula for {names}, which may be matrix products: a count without them would be too low", unseen)
    return rest
