"""Carry out a removal plan on a module: fold, cut, resize, and let the attributes tell the truth.

Nothing here decides; a plan that does not fit the module is refused before anything is changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from extcon_cli.channels.analysis.axes import Index
from extcon_cli.channels.analysis.groups import ChannelGroup
from extcon_cli.channels.modules import evaluating, is_norm, named_modules, named_tensor, named_tensors, submodules
from extcon_cli.channels.preserving import duplicate
from extcon_cli.channels.removal.narrow import narrow_attention, narrow_norm
from extcon_cli.channels.removal.narrow_encoder import narrow_encoder
from extcon_cli.channels.removal.narrow_models import narrow_response_norms, response_norms
from extcon_cli.channels.removal.rewrites import Fold, Merge, RemovalPlan, Renorm
from extcon_cli.errors import CheckpointError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

TRANSFORMER_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


@torch.no_grad()
def remove(module: nn.Module, plan: RemovalPlan) -> None:
    """Shrink the module in place. Its class stays the same, and its parameters are new tensors.

    Raises:
        CheckpointError: the plan was made for another module.
    """
    _check(module, plan)
    _rewrite(module, plan)
    widths = response_norms(module)
    tensors = named_tensors(module)
    _exchange(module, ((tensors[name], _narrowed(tensors.pop(name), dims)) for name, dims in _kept(plan).items()))
    narrow_response_norms(widths)
    for child in submodules(module):
        narrow_attention(child)
    for size in plan.sizes:
        setattr(module.get_submodule(size.module), size.attribute, size.after)
    sync_attributes(module)
    for child in submodules(module):
        narrow_encoder(child)


def removed_copy(module: nn.Module, plan: RemovalPlan) -> nn.Module:
    """A smaller copy to look at: tensors that the plan leaves as they are belong to both.

    Raises:
        CheckpointError: the plan was made for another module.
    """
    small = duplicate(module, _without(module, _written(plan)))
    remove(small, plan)
    return small


def shrunk(module: nn.Module, plan: RemovalPlan) -> nn.Module:
    """A smaller copy with tensors of its own; what is cut is never copied as a whole.

    Raises:
        CheckpointError: the plan was made for another module.
    """
    tensors = named_tensors(module)
    cut = {id(tensors[cut.parameter]) for cut in plan.cuts if cut.parameter in tensors}
    small = duplicate(module, [tensor for tensor in _without(module, _written(plan)) if id(tensor) in cut])
    remove(small, plan)
    return small


def _without(module: nn.Module, names: Collection[str]) -> list[Tensor]:
    """The tensors of a module but for these, whatever else they are called."""
    tensors = named_tensors(module)
    out = {id(tensors[name]) for name in names if name in tensors}
    return [tensor for tensor in tensors.values() if id(tensor) not in out]


@torch.no_grad()
def unrounded(before: nn.Module, after: nn.Module, plan: RemovalPlan) -> nn.Module:
    """The module after the removal with what the plan computed in float64 not rounded; all else belongs to both."""
    written = _written(plan)
    if not written:
        return after
    wide = duplicate(before, [tensor for name, tensor in named_tensors(before).items() if name not in written])
    for fold in plan.folds:
        _give_bias(wide, fold)
    tensors = named_tensors(wide)
    _exchange(wide, [(tensors[name], tensors[name].double()) for name in written])
    _rewrite(wide, plan)
    computed, kept = named_tensors(wide), _kept(plan)
    exact = duplicate(after, named_tensors(after).values())
    rounded = named_tensors(exact)
    _exchange(exact, [(rounded[name], _narrowed(computed[name], kept.get(name, {}))) for name in written])
    return exact


def _written(plan: RemovalPlan) -> set[str]:
    """The tensors whose numbers a plan changes."""
    written = {fold.bias for fold in plan.folds} | {merge.weight for merge in plan.merges}
    return written | {norm.weight for norm in plan.norms}


def _rewrite(module: nn.Module, plan: RemovalPlan) -> None:
    """Move what the removed channels give to those that stay."""
    for fold in plan.folds:
        _fold(module, fold)
    for merge in plan.merges:
        _merge(module, merge)
    for norm in plan.norms:
        _renorm(module, norm)


@torch.no_grad()
def zero_channels(module: nn.Module, group: ChannelGroup, channels: Index) -> None:
    """Set F of these channels of a group to exactly zero, in place."""
    for part in group.zeroing_slices:
        tensor = named_tensor(module, part.parameter)
        tensor.index_fill_(part.dim, torch.from_numpy(part.index[channels].ravel()).to(tensor.device), 0.0)


def sync_attributes(module: nn.Module) -> None:
    """Set every attribute that names a size (`in_channels`, `num_features` ...) from the parameters' shapes."""
    with evaluating(module):  # in training mode, to ask for a parametrised weight may change it (spectral norm)
        for child in submodules(module):
            _sync_sizes(child)


def _sync_sizes(module: nn.Module) -> None:
    """The sizes of one module, of the kinds that have any."""
    if isinstance(module, CONVOLUTIONS):
        rows, columns = module.weight.shape[:2]
        if module.groups > 1 and module.in_channels == module.groups:  # one filter, or m, for each channel
            module.groups = rows // (module.out_channels // module.groups)
        module.out_channels, module.in_channels = rows, columns * module.groups
    elif isinstance(module, TRANSPOSED):
        rows, columns = module.weight.shape[:2]
        if module.groups > 1 and module.in_channels == module.groups:
            module.groups = rows
        module.in_channels, module.out_channels = rows, columns * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, (nn.modules.batchnorm._NormBase,)):
        stored = module.weight if module.weight is not None else module.running_mean
        if stored is not None:
            module.num_features = stored.shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.shape[0]
    elif isinstance(module, nn.RNNBase):
        module.input_size = module.get_parameter("weight_ih_l0").shape[1]
        module._flat_weights = [module._parameters.get(name) for name in module._flat_weights_names]
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]
    elif isinstance(module, nn.Transformer):  # which refuses inputs of another width
        first = next((child for child in module.modules() if isinstance(child, TRANSFORMER_LAYERS)), None)
        module.d_model = module.d_model if first is None else first.linear1.weight.shape[1]
    elif is_norm(module):
        narrow_norm(module)
    elif type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # transformers: a linear map stored as (in, out)
        for name, width in zip(("nx", "nf"), module.get_parameter("weight").shape, strict=True):
            setattr(module, name, width)


def _check(module: nn.Module, plan: RemovalPlan) -> None:
    """CheckpointError where a change of the plan does not fit the module; nothing is changed yet."""
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(module).items()}
    attributes = {path: vars(child) for path, child in named_modules(module)}
    for fold in plan.folds:
        rows, columns = (*shapes.get(fold.weight, ()), 0, 0)[:2]
        rows, columns = (rows, columns) if fold.dim == 1 else (columns, rows)
        bias = shapes.setdefault(fold.bias, (rows,)) if fold.bias.rpartition(".")[0] in attributes else ()
        if bias != (rows,) or rows % fold.groups or not set(fold.channels) <= set(range(columns * fold.groups)):
            raise CheckpointError(f"the removal plan folds constants into {fold.weight}, which does not fit the model")
    for merge in plan.merges:
        rows, columns = (*shapes.get(merge.weight, ()), 0, 0)[:2]
        inputs = columns * merge.groups if merge.dim else rows
        if rows % merge.groups or not {*merge.channels, *merge.into} <= set(range(inputs)):
            raise CheckpointError(f"the removal plan merges channels of {merge.weight}, which does not fit the model")
    _check_cuts(plan, shapes)
    _check_norms(plan, shapes, attributes)
    for size in plan.sizes:
        found = attributes.get(size.module, {}).get(size.attribute)
        if type(found) is not int or found != size.before:
            raise CheckpointError(
                f"the removal plan sets {size.attribute} of {size.module}, {size.before}; the model has "
                f"{found or 'none'}: it is another architecture"
            )


def _check_cuts(plan: RemovalPlan, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """The slices that go are there, and leave some; a bias that a fold makes is among the shapes by now."""
    for cut in plan.cuts:
        shape = shapes.get(cut.parameter)
        if shape is None or cut.dim >= len(shape) or shape[cut.dim] != cut.size:
            raise CheckpointError(
                f"the removal plan cuts dimension {cut.dim} of {cut.parameter}, of size {cut.size}; "
                f"the model has {shape or 'no such parameter'}: it is another architecture"
            )
        if cut.left == 0:
            raise CheckpointError(f"the removal plan leaves nothing of {cut.parameter}")
    if len({(cut.parameter, cut.dim) for cut in plan.cuts}) < len(plan.cuts):
        raise CheckpointError("the removal plan cuts the same dimension twice")


def _check_norms(
    plan: RemovalPlan, shapes: Mapping[str, tuple[int, ...]], attributes: Mapping[str, Mapping[str, object]]
) -> None:
    """Each norm has its eps where the plan says, and its weight is cut as the plan says."""
    if len({norm.weight for norm in plan.norms}) < len(plan.norms):
        raise CheckpointError("the removal plan rewrites the same norm twice")
    left = {(cut.parameter, shapes[cut.parameter]): cut.left for cut in plan.cuts if cut.dim == 0}
    for norm in plan.norms:
        eps = attributes.get(norm.owner, {}).get(norm.attribute)
        if type(eps) is not float or eps != norm.eps or left.get((norm.weight, (norm.before,))) != norm.after:
            raise CheckpointError(f"the removal plan rewrites the norm of {norm.weight}, which does not fit the model")


def _fold(module: nn.Module, fold: Fold) -> None:
    """b += sum over the removed channels k of c_k times the sum of the weight's taps for k, in float64."""
    bias = _give_bias(module, fold)
    stored = named_tensor(module, fold.weight)
    weight = stored if fold.dim == 1 else stored.transpose(0, 1)  # (outputs, inputs, taps)
    constants = weight.new_zeros(weight.shape[1] * fold.groups, dtype=torch.float64)
    constants[list(fold.channels)] = torch.tensor(fold.constants, dtype=torch.float64, device=weight.device)
    gains = weight.double().reshape(fold.groups, -1, weight.shape[1], weight[0, 0].numel()).sum(-1)
    moved = (gains * constants.reshape(fold.groups, 1, -1)).sum(-1).reshape(-1)
    bias.copy_(bias.double() + moved)


def _give_bias(module: nn.Module, fold: Fold) -> Tensor:
    """The bias that a constant is folded into: zeros where there was none."""
    owner_name, _, bias_name = fold.bias.rpartition(".")
    owner = module.get_submodule(owner_name)
    if getattr(owner, bias_name, None) is None:
        weight = named_tensor(module, fold.weight)
        zeros = weight.new_zeros(weight.shape[1 - fold.dim])
        owner.register_parameter(bias_name, nn.Parameter(zeros, requires_grad=weight.requires_grad))
    bias: Tensor = getattr(owner, bias_name)
    return bias


def _merge(module: nn.Module, merge: Merge) -> None:
    """W[:, into] += gain W[:, channel], in float64, each in its group's rows."""
    weight = named_tensor(module, merge.weight)
    wide = weight.double()
    columns = wide.reshape(merge.groups, -1, *wide.shape[1:]).transpose(1, 2).flatten(0, 1) if merge.dim else wide
    for channel, into, gain in zip(merge.channels, merge.into, merge.gains, strict=True):
        columns[into] += gain * columns[channel]  # (rows, *taps) of one input
    if merge.dim:
        wide = columns.reshape(merge.groups, -1, *columns.shape[1:]).transpose(1, 2).reshape(weight.shape)
    weight.copy_(wide)


def _renorm(module: nn.Module, norm: Renorm) -> None:
    """eps *= N / n, offset + weight *= sqrt(N / n), in float64."""
    weight, ratio = named_tensor(module, norm.weight), norm.before / norm.after
    weight.copy_((weight.double() + norm.offset) * ratio**0.5 - norm.offset)
    setattr(module.get_submodule(norm.owner), norm.attribute, norm.eps * ratio)


def _kept(plan: RemovalPlan) -> dict[str, dict[int, Tensor]]:
    """The positions that stay, along each dimension of each tensor that is cut."""
    kept: dict[str, dict[int, Tensor]] = {}
    alike: dict[tuple[int, int], Tensor] = {}  # cuts of one group are often the same object
    for cut in plan.cuts:
        same = cut.size, id(cut.removed)
        if same not in alike:
            alike[same] = torch.from_numpy(cut.kept())
        kept.setdefault(cut.parameter, {})[cut.dim] = alike[same]
    return kept


def _narrowed(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """What stays of a tensor."""
    new = tensor.detach()
    for dim, positions in kept.items():
        new = new.index_select(dim, positions.to(new.device))
    return new.contiguous(memory_format=_memory_format(tensor))


def _exchange(module: nn.Module, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Put new tensors in every place that held the old ones, so that tied weights stay tied."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for child in submodules(module):
        for key, tensor in (*child._parameters.items(), *child._buffers.items()):
            places.setdefault(id(tensor), []).append((child, key))
    for old, new in pairs:
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        vars(new).update(vars(old))
        for child, key in places[id(old)]:
            if isinstance(new, nn.Parameter):
                child._parameters[key] = new
            else:
                child._buffers[key] = new


def _memory_format(tensor: Tensor) -> torch.memory_format:
    """The order in which a tensor's numbers lie in memory."""
    for rank, last in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if tensor.dim() == rank and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=last):
            return last
    return torch.contiguous_format
