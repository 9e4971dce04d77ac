"""A multilayer perceptron: linear maps, an elementwise activation between. No normalisation, no dropout."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}


class MLP(nn.Module):
    """in_features -> widths[0] -> ... -> num_classes outputs (1 for a regression). Images are flattened.

    `activation` is one name, or one for each of `widths`.
    """

    def __init__(
        self,
        in_features: int = 64,
        widths: Sequence[int] = (128, 128),
        num_classes: int = 10,
        activation: str | Sequence[str] = "relu",
    ) -> None:
        super().__init__()
        names = [activation] * len(widths) if isinstance(activation, str) else list(activation)
        if len(names) != len(widths) or not set(names) <= set(ACTIVATIONS):
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation should be one of {known}, or one for each of the widths, not {activation!r}")
        layers: list[nn.Module] = []
        inside = in_features
        for width, name in zip(widths, names, strict=True):
            layers += [nn.Linear(inside, width), ACTIVATIONS[name]()]
            inside = width
        self.layers = nn.Sequential(*layers, nn.Linear(inside, num_classes))

    def forward(self, x: Tensor) -> Tensor:  # (B, ...) with in_features numbers in all -> (B, num_classes)
        return self.layers(x.flatten(1))
