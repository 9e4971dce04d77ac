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
}


class MLP(nn.Module):
    """in_features -> widths[0] -> ... -> num_classes outputs (1 for a regression). Images are flattened."""

    def __init__(
        self,
        in_features: int = 64,
        widths: Sequence[int] = (128, 128),
        num_classes: int = 10,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation should be one of {', '.join(ACTIVATIONS)}, not {activation!r}")
        layers: list[nn.Module] = []
        inside = in_features
        for width in widths:
            layers += [nn.Linear(inside, width), ACTIVATIONS[activation]()]
            inside = width
        self.layers = nn.Sequential(*layers, nn.Linear(inside, num_classes))

    def forward(self, x: Tensor) -> Tensor:  # (B, ...) with in_features numbers in all -> (B, num_classes)
        return self.layers(x.flatten(1))
