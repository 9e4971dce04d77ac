"""SliceGPT (Ashkboos et al. 2024) for Llama and GPT-2 of transformers, from its paper's formulas. For language.py.

A norm over the stream without weights gives the same where the stream is turned by an orthogonal Q. So each block l
gets the principal components Q_l of what it reads, of which the first k are kept: its linear maps are turned and cut,
and the residual connection from block to block becomes Q_(l-1)^T Q_l, a matrix of its own, k x k. A norm's weight goes
into the maps behind it, and the mean that a LayerNorm takes off into the maps before it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


class Norm(nn.Module):
    """x over the root of its mean square, where the mean is over the channels that there were."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.width, self.eps = width, eps

    def forward(self, x: Tensor) -> Tensor:  # (..., k)
        return x * (x.square().sum(-1, keepdim=True) / self.width + self.eps).rsqrt()


class Block(nn.Module):
    """Attention and MLP, each behind its norm, with matrices on the residual connections."""

    def __init__(self, attention: nn.Module, mlp: nn.Module, norm: Norm, width: int) -> None:
        super().__init__()
        self.attention, self.mlp, self.norm = attention, mlp, norm
        self.past_attention = nn.Linear(width, width, bias=False)
        self.past_mlp = nn.Linear(width, width, bias=False)
        self.attention_type = "full_attention"

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # (N, T, k)
        x = self.past_attention(x) + self.attention(self.norm(x), **kwargs)[0]
        after: Tensor = self.past_mlp(x) + self.mlp(self.norm(x))
        return after


@dataclass(frozen=True)
class Half:
    """A block's attention or MLP: its norm, the maps that read the stream, and the one that writes to it."""

    norm: nn.Module
    readers: tuple[nn.Module, ...]
    writer: nn.Module


@torch.no_grad()
def sliced(model: Any, batches: Sequence[Tensor], budget: float) -> nn.Module:
    """The model cut to as many principal components as leave it at most `budget` parameters."""
    model = copy.deepcopy(model)
    llama = hasattr(model, "model")
    body = model.model if llama else model.transformer
    layers, last = (body.layers, body.norm) if llama else (body.h, body.ln_f)
    halves = [half for layer in layers for half in _halves(layer, llama)]
    tables = [body.embed_tokens] if llama else [body.wte, body.wpe]
    width = tables[0].weight.shape[1]
    head = nn.Linear(width, model.lm_head.weight.shape[0], bias=not llama)
    head.weight.copy_(model.lm_head.weight)  # no longer tied
    nn.init.zeros_(head.bias) if head.bias is not None else None
    model.lm_head = head
    norms = [*(half.norm for half in halves), last]
    turns = _turns(model, norms, batches, centred=not llama)
    if not llama:
        centre = torch.eye(width) - 1 / width
        _write(tables, [half.writer for half in halves], centre)
    for half in halves:
        _fuse(half.norm, half.readers)
    _fuse(last, [head])
    turned = [*(table.weight for table in tables), head.weight, *(w.weight for half in halves for w in half.readers),
              *(parameter for half in halves for parameter in half.writer.parameters())]  # fmt: skip
    kept = _kept(model, turned, len(halves), width, budget)
    eps = next(getattr(last, name) for name in ("variance_epsilon", "eps") if hasattr(last, name))
    plain = Norm(width, eps)
    parts = [turn[:, :kept] for turn in turns]  # (width, kept) of each half, and of the head
    for table in tables:
        table.weight = nn.Parameter(table.weight @ parts[0])
        table.embedding_dim = kept
    for half, here, there in zip(halves, parts, parts[1:], strict=False):
        for reader in half.readers:
            _turn_inputs(reader, here)
        _turn_outputs(half.writer, there)
    _turn_inputs(head, parts[-1])
    for number, layer in enumerate(layers):
        attention = layer.self_attn if llama else layer.attn
        block = Block(attention, layer.mlp, plain, kept)
        first, second, third = parts[2 * number : 2 * number + 3]
        block.past_attention.weight.copy_((first.T @ second).T)
        block.past_mlp.weight.copy_((second.T @ third).T)
        layers[number] = block
    if llama:
        body.norm = plain
    else:
        body.ln_f = plain
    return model.eval()  # type: ignore[no-any-return]


def _halves(layer: Any, llama: bool) -> list[Half]:
    if llama:
        attention, mlp = layer.self_attn, layer.mlp
        return [
            Half(layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj), attention.o_proj),
            Half(layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj), mlp.down_proj),
        ]
    return [
        Half(layer.ln_1, (layer.attn.c_attn,), layer.attn.c_proj),
        Half(layer.ln_2, (layer.mlp.c_fc,), layer.mlp.c_proj),
    ]


def _turns(model: nn.Module, norms: Sequence[nn.Module], batches: Sequence[Tensor], *, centred: bool) -> list[Tensor]:
    """The principal components of what each norm gives without its weight, the largest first: (width, width)."""
    sums: dict[nn.Module, Tensor | float] = dict.fromkeys(norms, 0.0)

    def add(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        rows = args[0].flatten(0, -2).double()
        rows = rows - rows.mean(1, keepdim=True) if centred else rows
        rows = rows / rows.square().mean(1, keepdim=True).sqrt()
        sums[norm] = sums[norm] + rows.T @ rows

    handles = [norm.register_forward_pre_hook(add) for norm in norms]
    for batch in batches:
        model(batch)
    for handle in handles:
        handle.remove()
    return [torch.linalg.eigh(torch.as_tensor(total))[1].flip(1).float() for total in sums.values()]


def _kept(model: nn.Module, turned: Sequence[nn.Parameter], halves: int, width: int, budget: float) -> int:
    """How many components leave at most so many parameters, the residual matrices counted.

    `turned`: the parameters that have one side on the stream.
    """
    norms = {id(parameter) for norm in model.modules() if _is_norm(norm) for parameter in norm.parameters()}
    sizes = {id(p): p.numel() for p in model.parameters() if id(p) not in norms}
    along = sum(sizes[id(parameter)] for parameter in turned) // width
    beside = sum(sizes.values()) - along * width
    return max(k for k in range(1, width + 1) if along * k + beside + halves * k * k <= budget or k == 1)


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__


def _is_conv1d(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"


def _fuse(norm: Any, readers: Sequence[Any]) -> None:
    """A norm's weight and bias go into the maps that read it."""
    for reader in readers:
        if _is_conv1d(reader):  # (in, out)
            reader.bias += norm.bias @ reader.weight
            reader.weight *= norm.weight[:, None]
        else:
            if getattr(norm, "bias", None) is not None:
                reader.bias += reader.weight @ norm.bias
            reader.weight *= norm.weight


def _write(tables: Sequence[Any], writers: Sequence[Any], matrix: Tensor) -> None:
    """Everything that is written to the stream goes through a matrix, in place."""
    for table in tables:
        table.weight.copy_(table.weight @ matrix)
    for writer in writers:
        writer.weight.copy_(writer.weight @ matrix)
        writer.bias.copy_(writer.bias @ matrix)


def _turn_inputs(reader: Any, turn: Tensor) -> None:
    if _is_conv1d(reader):
        reader.weight = nn.Parameter(turn.T @ reader.weight)
    else:
        reader.weight = nn.Parameter(reader.weight @ turn)
        reader.in_features = turn.shape[1]


def _turn_outputs(writer: Any, turn: Tensor) -> None:
    if _is_conv1d(writer):
        writer.weight, writer.nf = nn.Parameter(writer.weight @ turn), turn.shape[1]
        writer.bias = nn.Parameter(writer.bias @ turn)
    else:
        writer.weight, writer.out_features = nn.Parameter(turn.T @ writer.weight), turn.shape[1]
