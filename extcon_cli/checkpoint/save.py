"""Save a module that was loaded from a checkpoint and changed since: the way back of `load`. It trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from extcon_cli import __version__
from extcon_cli.checkpoint.architectures import default_input_shape
from extcon_cli.checkpoint.load import fill, half_precision, recognise, replay, restore
from extcon_cli.checkpoint.metadata import Metadata
from extcon_cli.checkpoint.precision import round_to, stored_precision
from extcon_cli.checkpoint.read import Checkpoint, read
from extcon_cli.checkpoint.state import find_state
from extcon_cli.checkpoint.write import check_writable, write
from extcon_cli.errors import CheckpointError

if TYPE_CHECKING:
    from extcon_cli.channels import RemovalPlan


def save(
    model: nn.Module,
    path: str | Path,
    *,
    like: str | Path,
    plans: Sequence[RemovalPlan] = (),
    force: bool = False,
    trust_code: bool = False,
) -> None:
    """Write a model as a safetensors checkpoint that `load` gives back: load(save(load(x))) is the identity.

        >>> import extcon_cli
        >>> model = extcon_cli.load("sample_models/digits_resnet.pt")
        >>> # ... fine-tune it in your own loop ...
        >>> extcon_cli.save(model, "tuned.safetensors", like="sample_models/digits_resnet.pt")
        >>> model = extcon_cli.load("tuned.safetensors")

    Args:
        model: on any device, in a wrapper or not. It stays as it is.
        path: ends in `.safetensors`.
        like: the checkpoint that the model came from. Its architecture, removal plans, input shape, classes,
            normalisation, recipe and history are taken over, and its precision: what it stores in half precision is
            rounded to that and stored so. So is what the model has in half precision itself.
        plans: removals since then, in their order: `plan` of what `remove_zeros` or `Catalyst.contract` gave.
        force: overwrite a file.
        trust_code: allow an architecture of `like` that is the user's own code.

    Raises:
        CheckpointError: `like` cannot be read, or the model's tensors or plans are not of its architecture.
        UsageError: the file cannot be written, or the architecture cannot be built.
    """
    check_writable(path, force)
    checkpoint = read(like)
    metadata = _metadata(checkpoint)
    twin = restore(checkpoint, str(metadata.arch), metadata.kwargs, trust_code=trust_code)
    for plan in plans:
        replay(twin, plan.to_json(), f"the model does not fit {like}")
    state = find_state({name: tensor.cpu() for name, tensor in model.state_dict().items()}, "the model").state
    fill(twin, state, source="the model", arch=str(like))
    done = {"command": "save", "version": __version__}
    described = metadata.model_copy(
        update={
            "plan": (*metadata.plans, *(plan.to_json() for plan in plans)) or None,
            "history": (*metadata.history, done),
            "version": __version__,
        }
    )
    precision = {**half_precision(twin, checkpoint), **stored_precision(state)}
    round_to(twin, precision)
    write(path, twin, described, force=force, precision=precision)


def _metadata(checkpoint: Checkpoint) -> Metadata:
    """What the checkpoint says about itself; what its tensors tell, of one that extcon did not write."""
    if checkpoint.metadata is None:
        found = recognise(checkpoint)
        return Metadata(arch=found.arch, kwargs=found.kwargs, input_shape=default_input_shape(found.arch, found.kwargs))
    if checkpoint.metadata.arch is None:
        raise CheckpointError(f"{checkpoint.path} does not name its architecture, so that nothing like it can be saved")
    return checkpoint.metadata
