"""The decoder once more, one sequence, one token and one head at a time, in plain loops over vectors.

Shares with modcalc.models its parameters and nothing else: no batch, no buffer, no gather, no mask. A token is
a Token(position, vector); a routed part is handed the list of the tokens that pass and returns their new vectors.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


class Tie(Exception):
    """Two experts, or two tokens for one expert, are equally good: either choice is right."""


def best(values: list[float], n: int) -> list[int]:
    """Indices of the n highest values."""
    order = sorted(range(len(values)), key=values.__getitem__, reverse=True)
    if n < len(order) and values[order[n - 1]] - values[order[n]] < 1e-9:
        raise Tie
    return order[:n]


@dataclass(frozen=True)
class Token:
    at: int
    x: Tensor
    alive: bool = True  # False: only fills the buffer of a recursion


def linear(module: nn.Module, x: Tensor) -> Tensor:
    y = module.weight @ x
    return y if module.bias is None else y + module.bias


def norm(module: nn.Module, x: Tensor, group: int = 0) -> Tensor:
    p = module.plan
    weight, bias = (w[group] if w is not None and w.dim() == 2 else w for w in (module.weight, module.bias))
    if p.kind == "layernorm":
        x = x - x.sum() / len(x)
    x = x / torch.sqrt((x * x).sum() / len(x) + p.eps)
    if weight is not None:
        x = x * (weight + 1 if p.unit_offset else weight)
    return x if bias is None else x + bias


def rotary(x: Tensor, at: int, theta: float, dim: int, start: int = 0) -> Tensor:
    out = list(x)
    for i in range(dim // 2):
        a, b, angle = x[start + i], x[start + dim // 2 + i], at * theta ** (-2 * i / dim)
        out[start + i] = a * math.cos(angle) - b * math.sin(angle)
        out[start + dim // 2 + i] = b * math.cos(angle) + a * math.sin(angle)
    return torch.stack(out)


def act(plan, up: Tensor, gate: Tensor | None, own: nn.Module | None = None) -> Tensor:
    def xielu(z: Tensor) -> Tensor:
        p, n = torch.log1p(torch.exp(own.alpha_p[0])), 0.5 + torch.log1p(torch.exp(own.alpha_n[0]))
        return torch.stack([p * x * x + 0.5 * x if x > 0 else n * (torch.exp(x) - 1 - x) + 0.5 * x for x in z])

    def phi(z: Tensor) -> Tensor:
        return {
            "xielu": lambda: xielu(z),
            "gelu": lambda: z * 0.5 * (1 + torch.erf(z / math.sqrt(2))),
            "gelu_tanh": lambda: 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
            "silu": lambda: z * torch.sigmoid(z),
            "relu": lambda: z * (z > 0),
            "relu2": lambda: (z * (z > 0)) ** 2,
            "quick_gelu": lambda: z * torch.sigmoid(1.702 * z),
        }[plan.activation]()

    if gate is None:
        return phi(up)
    if plan.activation == "swiglu_clamped":
        gate, up = torch.clamp(gate, max=7), torch.clamp(up, -7, 7)
        return gate * torch.sigmoid(1.702 * gate) * (up + 1)
    return phi(gate) * up


def mlp(module: nn.Module, x: Tensor) -> Tensor:
    gate = linear(module.gate_proj, x) if module.plan.gated else None
    return linear(module.down_proj, act(module.plan, linear(module.up_proj, x), gate, module.act))


def heads(x: Tensor, n: int, module: nn.Module | None, full: bool) -> list[Tensor]:
    if module is not None and full:
        x = norm(module, x)
    parts = list(x.chunk(n))
    return parts if module is None or full else [norm(module, part, h) for h, part in enumerate(parts)]


def project(a: nn.Module, token: Token) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """q, k, v of one token, a list over heads."""
    p, lat = a.plan, a.plan.latent
    H, K, r = p.n_heads, p.n_kv_heads, p.rotary_dim
    if lat is None:
        q = heads(linear(a.q_proj, token.x), H, a.q_norm, p.q_norm is not None and p.q_norm.width != p.head_dim)
        k = heads(linear(a.k_proj, token.x), K, a.k_norm, p.k_norm is not None and p.k_norm.width != p.head_dim)
        v = heads(linear(a.k_proj if p.values_from_keys else a.v_proj, token.x), K, a.v_norm, False)
        return [rotary(h, token.at, p.theta, r) for h in q], [rotary(h, token.at, p.theta, r) for h in k], v
    q = linear(a.q_proj, token.x) if lat.q_rank is None else linear(a.q_up, norm(a.q_down_norm, linear(a.q_down, token.x)))
    q = [rotary(h, token.at, p.theta, r, lat.nope_dim) for h in q.chunk(H)]
    down = linear(a.kv_down, token.x)
    shared = rotary(down[lat.kv_rank :], token.at, p.theta, r)
    up = linear(a.kv_up, norm(a.kv_down_norm, down[: lat.kv_rank])).chunk(H)
    return q, [torch.cat([h[: lat.nope_dim], shared]) for h in up], [h[lat.nope_dim :] for h in up]


def alibi_slope(h: int, H: int) -> float:
    below = 1
    while below * 2 <= H:
        below *= 2
    return 2.0 ** (-8 * (h + 1) / below) if h < below else 2.0 ** (-4 * (2 * (h - below) + 1) / below)


def attention(a: nn.Module, tokens: list[Token], over: list[Token] | None = None) -> list[Tensor]:
    """over: the tokens that bring keys, if not these."""
    p = a.plan
    scale = p.scale if p.scale is not None else 1 / math.sqrt(p.head_dim)
    keys = tokens if over is None else over
    made = [project(a, t) for t in keys]
    asked = made if over is None else [project(a, t) for t in tokens]
    out = []
    for i, query in enumerate(tokens):
        mixed = []
        for h in range(p.n_heads):
            scores, values = [], []
            for j, key in enumerate(keys):
                distance = query.at - key.at
                if distance < 0 if over is not None else j > i:
                    continue
                if p.window is not None and (query.at // p.window != key.at // p.window if p.chunked else distance >= p.window):
                    continue
                group = h * len(made[j][1]) // p.n_heads
                s = (asked[i][0][h] * made[j][1][group]).sum() * scale
                if p.softcap is not None:
                    s = p.softcap * torch.tanh(s / p.softcap)
                if p.alibi:
                    s = s - alibi_slope(h, p.n_heads) * distance
                scores.append(s)
                values.append(made[j][2][group])
            sinks = [a.core.sinks[h]] if p.sinks else []
            top = max(s.item() for s in scores + sinks)  # drawn weights make scores whose exp is too large to write down
            weights = [torch.exp(s - top) for s in scores]
            total = sum(weights) + sum(torch.exp(s - top) for s in sinks)
            mixed.append(sum(w / total * v for w, v in zip(weights, values, strict=True)))
        if p.gate:
            gates = torch.sigmoid(linear(a.gate_proj, query.x)).chunk(p.n_heads)
            mixed = [torch.cat([gates[h][d % p.gate] * y[d : d + 1] for d in range(len(y))]) for h, y in enumerate(mixed)]
        out.append(linear(a.o_proj, torch.cat(mixed)))
    return out


def expert(moe: nn.Module, e: int, x: Tensor) -> Tensor:
    def one(module: nn.Module, x: Tensor) -> Tensor:
        return module.weight[e] @ x + (0 if module.bias is None else module.bias[e])

    m, p = moe.experts, moe.plan.expert
    return one(m.down_proj, act(p, one(m.up_proj, x), one(m.gate_proj, x) if p.gated else None))


def softmax(x: Tensor) -> Tensor:
    x = torch.exp(x - x.max().item())
    return x / x.sum()


def token_choice(moe: nn.Module, x: Tensor) -> dict[int, Tensor]:
    """Expert -> weight, of one token."""
    p = moe.plan
    logits = linear(moe.router, norm(moe.router_norm, x) / math.sqrt(len(x)) if p.own_norm else x)
    scores = {"softmax_topk": softmax, "topk_softmax": lambda z: z, "sigmoid": torch.sigmoid}[p.score](logits)
    rank = [s.item() + (float(moe.balance_bias[e]) if p.balance_bias else 0) for e, s in enumerate(scores)]
    size = len(rank) // p.groups
    open_groups = best([sum(sorted(rank[g * size : (g + 1) * size])[-2:]) for g in range(p.groups)], p.top_groups)
    allowed = [e for e in range(len(rank)) if e // size in open_groups]
    chosen = [allowed[i] for i in best([rank[e] for e in allowed], p.top_k)]
    weights = torch.stack([scores[e] for e in chosen])
    if p.score == "topk_softmax":
        weights = softmax(weights)
    elif p.renormalize:
        weights = weights / weights.sum()
    weights = weights * p.scaling
    if p.own_norm:
        weights = torch.stack([w * moe.factors[e] for w, e in zip(weights, chosen, strict=True)])
    return dict(zip(chosen, weights, strict=True))


def chosen_by_tokens(moe: nn.Module, xs: list[Tensor], slots: int | None) -> list[dict[int, Tensor]]:
    """Expert -> weight of each token; earlier ones go first where room is short."""
    used = dict.fromkeys(range(moe.plan.n_experts), 0)
    routed: list[dict[int, Tensor]] = [{} for _ in xs]
    for i, x in enumerate(xs):
        for e, w in token_choice(moe, x).items():
            if e < moe.plan.n_experts and (slots is None or used[e] < slots):
                used[e] += 1
                routed[i][e] = w
    return routed


def summed(moe: nn.Module, xs: list[Tensor], routed: list[dict[int, Tensor]]) -> list[Tensor]:
    return [sum((w * expert(moe, e, x) for e, w in r.items()), torch.zeros_like(x)) for x, r in zip(xs, routed, strict=True)]


def beside(moe: nn.Module, xs: list[Tensor], stream: list[Tensor], slots: int | None) -> list[Tensor]:
    """Shared and routed experts, each between norms of its own."""
    routed = summed(moe, [norm(moe.experts_norm, x) for x in stream], chosen_by_tokens(moe, stream, slots))
    return [norm(moe.experts_out_norm, y) + norm(moe.shared_out_norm, mlp(moe.shared, x)) for x, y in zip(xs, routed, strict=True)]


def mixture(moe: nn.Module, xs: list[Tensor], stream: list[Tensor], room: int) -> list[Tensor]:
    """All tokens of one sequence; `room` tokens would fit, which settles the size of the experts' buffers. stream: xs before their norm."""
    p, slots = moe.plan, moe.plan.slots(room)
    if p.own_norm:
        return beside(moe, xs, stream, slots)
    if p.choice == "token":
        routed = chosen_by_tokens(moe, xs, slots)
    else:
        routed = [{} for _ in xs]
        scores = [(softmax if p.score == "softmax_topk" else torch.sigmoid)(linear(moe.router, x)) for x in xs]
        for e in range(p.n_experts):
            for i in best([s[e].item() for s in scores], slots):
                routed[i][e] = scores[i][e]
        totals = [sum(r.values()) if p.renormalize else 1 for r in routed]
        routed = [{e: w / total * p.scaling for e, w in r.items()} for r, total in zip(routed, totals, strict=True)]
    out = summed(moe, xs, routed)
    if moe.shared is None:
        return out
    gates = [torch.sigmoid(linear(moe.shared_gate, x)) if p.shared_gate else 1 for x in xs]
    return [y + gate * mlp(moe.shared, x) for x, y, gate in zip(xs, out, gates, strict=True)]


class Naive:
    """One sequence of a model. routing: what the model decided for it (scores [T'], kept [C]), which is checked, then followed."""

    def __init__(self, model: nn.Module, routing: list[tuple[Tensor, Tensor]]) -> None:
        self.model, self.decisions = model, list(routing)

    def logits(self, tokens: list[int]) -> Tensor:
        m, e = self.model, self.model.embedding
        here = []
        for at, token in enumerate(tokens):
            x = e.tokens.weight[token]
            x = x if e.plan.scale is None else x * e.plan.scale
            x = x if e.project is None else linear(e.project, x)
            x = x if e.positions is None else x + e.positions.weight[at + e.plan.position_offset]
            here.append(Token(at, x if e.norm is None else norm(e.norm, x)))
        rec = m.plan.recursion
        if rec is None:
            here = self.stack(m.blocks, here)
        else:
            here = self.stack(m.blocks[: rec.first], here)
            here = self.recurse(0, here)
            here = self.stack(m.blocks[rec.last + 1 :], here)
        assert not self.decisions
        return torch.stack([self.head(t.x) for t in here])

    def head(self, x: Tensor) -> Tensor:
        m = self.model
        x = x if m.final_norm is None else norm(m.final_norm, x)
        x = linear(m.head, x if m.head_proj is None else linear(m.head_proj, x))
        x = x if m.plan.head.scale is None else x * m.plan.head.scale
        cap = m.plan.head.softcap
        return x if cap is None else cap * torch.tanh(x / cap)

    def stack(self, blocks, tokens: list[Token], room: int | None = None) -> list[Token]:
        for block in blocks:
            tokens = self.block(block, tokens, room or len(tokens))
        return tokens

    def recurse(self, step: int, tokens: list[Token]) -> list[Token]:
        m, rec = self.model, self.model.plan.recursion
        if step == len(m.recursions):
            return tokens
        shared = m.blocks[rec.first : rec.last + 1]
        return self.route(
            m.recursions[step], tokens, lambda chosen, room: self.stack(shared, chosen, room), lambda chosen: self.recurse(step + 1, chosen)
        )

    def block(self, b: nn.Module, tokens: list[Token], room: int) -> list[Token]:
        r = b.plan.routing
        over = None
        if r and r.keys == "all":
            over = [t if b.plan.placement in ("output", "post") else replace(t, x=norm(b.attn_norm, t.x)) for t in tokens]
        if b.plan.parallel != "none":

            def whole(ts: list[Token], room: int) -> list[Token]:
                first = [norm(b.attn_norm, t.x) for t in ts]
                second = first if b.plan.parallel == "shared_norm" else [norm(b.mlp_norm, t.x) for t in ts]
                a = attention(b.attn, [replace(t, x=x) for t, x in zip(ts, first, strict=True)], over)
                f = self.ffn(b, second, [t.x for t in ts], room)
                return [replace(t, x=t.x + b.plan.residual_scale * (y + z)) for t, y, z in zip(ts, a, f, strict=True)]
        else:

            def whole(ts: list[Token], room: int) -> list[Token]:
                return fed(attended(ts, room), room)

        def attended(ts: list[Token], room: int) -> list[Token]:
            return self.part(b, "attn", ts, lambda xs: attention(b.attn, [replace(t, x=x) for t, x in zip(ts, xs, strict=True)], over))

        def fed(ts: list[Token], room: int) -> list[Token]:
            return self.part(b, "mlp", ts, lambda xs: self.ffn(b, xs, [t.x for t in ts], room))

        if r is None:
            return whole(tokens, room)
        if r.granularity == "block":
            return self.route(b, tokens, whole)
        if r.granularity == "attention":
            return fed(self.route(b, tokens, attended), room)
        return self.route(b, attended(tokens, room), fed)

    def ffn(self, b: nn.Module, xs: list[Tensor], stream: list[Tensor], room: int) -> list[Tensor]:
        return mixture(b.moe, xs, stream, room) if hasattr(b, "moe") else [mlp(b.mlp, x) for x in xs]

    def part(self, b: nn.Module, name: str, tokens: list[Token], f) -> list[Token]:
        """A residual part with its norms, for one placement after another."""
        before, after = getattr(b, f"{name}_norm", None), getattr(b, f"{name}_out_norm", None)
        xs = [t.x for t in tokens]
        post = b.plan.placement == "post"
        ys = f(xs if before is None or post else [norm(before, x) for x in xs])
        ys = ys if after is None else [norm(after, y) for y in ys]
        sums = [x + b.plan.residual_scale * y for x, y in zip(xs, ys, strict=True)]
        return [replace(t, x=norm(before, s) if post else s) for t, s in zip(tokens, sums, strict=True)]

    def route(self, owner: nn.Module, tokens: list[Token], sub, then=None) -> list[Token]:
        r, (noted, kept) = owner.routing, self.decisions.pop(0)
        kept = kept.tolist()
        scores = [noted[i] if r.router == "random" or not t.alive else (owner.router.weight[0] * t.x).sum() for i, t in enumerate(tokens)]
        alive = [i for i, t in enumerate(tokens) if t.alive]
        best = [i for i in kept if tokens[i].alive]
        # As many as fit, none twice, and nobody outside outranks anybody inside.
        assert len(kept) == len(set(kept)) == r.capacity and len(best) == min(len(alive), r.capacity)
        worst = min((scores[i].item() for i in best), default=0.0)
        assert all(scores[i].item() <= worst + 1e-9 for i in alive if i not in best)
        chosen = [i for i in best if r.selection == "topk" or scores[i] > 0]
        assert chosen == sorted(chosen)
        passed = sub([tokens[i] for i in chosen], r.capacity)
        weight = [torch.ones(()) if r.router == "random" else scores[i] for i in chosen]
        new = {i: replace(y, x=tokens[i].x + w * (y.x - tokens[i].x)) for i, y, w in zip(chosen, passed, weight, strict=True)}
        if then is not None:
            # The next recursion sees this one's buffer, in its order.
            buffer = [new.get(i, replace(tokens[i], alive=False)) for i in kept]
            new = {i: t for i, t in zip(kept, then(buffer), strict=True) if i in new}
        return [new.get(i, self.around(owner, t)) for i, t in enumerate(tokens)]

    def around(self, owner: nn.Module, t: Token) -> Token:
        return t if owner.bypass is None else replace(t, x=t.x + mlp(owner.bypass, norm(owner.bypass_norm, t.x)))


def run_naive(model: torch.nn.Module, tokens: torch.Tensor, routing: tuple) -> torch.Tensor:
    rows = range(tokens.shape[0])
    return torch.stack([Naive(model, [(r.scores[b], r.kept[b]) for r in routing]).logits(tokens[b].tolist()) for b in rows])


def equals_naive(model: torch.nn.Module, tokens: torch.Tensor) -> None:
    """Logits and the gradient of every parameter."""
    torch.manual_seed(1)
    out = model(tokens)
    naive = run_naive(model, tokens, out.routing)
    torch.testing.assert_close(out.logits, naive, rtol=1e-10, atol=1e-10)
    params = dict(model.named_parameters())
    direction = torch.randn(out.logits.shape, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad((y * direction).sum(), params.values(), allow_unused=True) for y in (out.logits, naive))
    # A gradient that is 0 but for rounding has the rounding of what cancels in it.
    rounding = 1e-13 * max(float(g.abs().max()) for g in theirs if g is not None)
    for name, a, b in zip(params, ours, theirs, strict=True):
        a, b = (torch.zeros_like(params[name]) if g is None else g for g in (a, b))
        torch.testing.assert_close(
            a, b, rtol=1e-10, atol=1e-10 * max(1.0, float(b.abs().max())) + rounding, msg=lambda text, name=name: f"{name}: {text}"
        )
