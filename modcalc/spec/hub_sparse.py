"""Rules of a config.json that say which layers have experts: see `hub_rules`."""

from collections.abc import Callable

from modcalc.spec.hub_fields import show
from modcalc.spec.hub_layers import each_layer
from modcalc.spec.hub_rules import Config, Refused, Rule, needed, of


def sparse_after(dense: Callable[[Config], int]) -> Callable[[Config], list[int]]:
    """Layers with experts by mlp_layer_types; without it all but the first `dense(config)`."""

    def rule(c: Config) -> list[int]:
        types = each_layer(c, "mlp_layer_types")
        if types is None:
            return list(range(dense(c), c["num_hidden_layers"]))
        if not set(types) <= {"dense", "sparse"}:
            raise Refused("mlp_layer_types", f"{show(types)}: dense or sparse is needed for each layer")
        return [i for i, name in enumerate(types) if name == "sparse"]

    return rule


def dense_alike(c: Config) -> None:
    """DeepSeek-OCR 2: its older files say first_k_dense_replace, which the library's class does not read."""
    first, types = c["first_k_dense_replace"], c["mlp_layer_types"]
    if None not in (first, types) and ocr_sparse_layers(c) != list(range(first, c["num_hidden_layers"])):
        raise Refused("first_k_dense_replace", f"{first}, but mlp_layer_types says otherwise; remove one of them")


def one_dense(c: Config) -> int:
    """GLM-4.7-Flash: the first layer, which first_k_dense_replace must not deny."""
    if c["first_k_dense_replace"] != 1:
        raise Refused("first_k_dense_replace", f"{c['first_k_dense_replace']}: this model_type has one dense layer, or those of mlp_layer_types")
    return 1


glm_sparse_layers = sparse_after(one_dense)
ocr_sparse_layers = sparse_after(needed("first_k_dense_replace"))
after_dense = sparse_after(of("first_k_dense_replace"))
mellum_sparse_layers = sparse_after(lambda c: 0)


def every_nth(c: Config, step: int) -> list[int]:
    """The last of each `step` layers."""
    return list(range(step - 1, c["num_hidden_layers"], step))


def ernie_sparse_layers(c: Config) -> list[int]:
    """ERNIE 4.5: every moe_layer_interval-th layer from the first to the last that may have experts; -1 is the model's last."""
    first, step, last = c["moe_layer_start_index"], c["moe_layer_interval"], c["moe_layer_end_index"]
    return [i for i in every_nth(c, step) if i >= first and (i <= last or last == -1)]


def ernie_biases(c: Config) -> None:
    if c["use_bias"] and c["moe_num_shared_experts"] and ernie_sparse_layers(c):
        raise Refused("use_bias", "true: biases in shared but not in routed experts, which no spec can describe")


def ernie_mlp_bias(c: Config) -> bool:
    """Of layers without experts, whose own have none."""
    return c["use_bias"] and len(ernie_sparse_layers(c)) < c["num_hidden_layers"]


def to_the_end(sparse: Callable[[Config], list[int]]) -> dict[str, Rule]:
    """Layers with experts: the first, where all after it have some, or one by one."""

    def offset(c: Config) -> int | None:
        layers = sparse(c)
        return layers[0] if layers == list(range(layers[0], c["num_hidden_layers"])) else None

    return {"moe.offset": offset, "moe.layers": lambda c: sparse(c) if offset(c) is None else None}


def if_grouped(field: str) -> Rule:
    """DeepSeek-V2: groups of experts with one of its two methods only."""
    methods = ("greedy", "group_limited_greedy")

    def rule(c: Config) -> int | None:
        if c["topk_method"] not in methods:
            raise Refused("topk_method", f"{show(c['topk_method'])} is neither {methods[0]} nor {methods[1]}")
        return needed(field)(c) if c["topk_method"] == methods[1] else None

    return rule


def llama4_sparse_layers(c: Config) -> list[int]:
    """Llama 4: the layers of moe_layers, or every interleave_moe_layer_step-th."""
    if c["moe_layers"] is None:
        return every_nth(c, needed("interleave_moe_layer_step")(c))
    return sorted({i for i in c["moe_layers"] if i < c["num_hidden_layers"]})


def llama4_every(c: Config) -> int | None:
    """Each n-th layer has experts, if that says which."""
    layers = llama4_sparse_layers(c)
    step = layers[0] + 1
    return step if layers == every_nth(c, step) else None


def qwen_sparse_layers(c: Config) -> list[int]:
    """Layers with experts: every decoder_sparse_step-th, without mlp_only_layers."""
    if not c["num_experts"]:
        return []
    step, dense = c["decoder_sparse_step"], set(c["mlp_only_layers"] or ())
    return [i for i in every_nth(c, step) if i not in dense]


def flint_sparse_layers(c: Config) -> list[int]:
    """As Qwen's, but without mlp_only_layers the first two are dense."""
    return qwen_sparse_layers(Config(c, mlp_only_layers=[0, 1]) if c["mlp_only_layers"] is None else c)


def qwen_explicit_layers(c: Config) -> list[int] | None:
    """The layers one by one, only where `every` cannot say them."""
    layers, step = qwen_sparse_layers(c), c["decoder_sparse_step"]
    return None if layers == every_nth(c, step) else layers


def qwen_every(c: Config) -> int | None:
    return c["decoder_sparse_step"] if qwen_explicit_layers(c) is None else None
