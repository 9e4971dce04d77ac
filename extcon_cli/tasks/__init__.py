"""Tasks by name. A task says what a batch, a loss and a metric are; data, training and commands ask it.

from extcon_cli.tasks import Task

class Denoising(Task):
    name, figure = "denoising", "loss"

    def loss(self, outputs, targets):
        return (outputs - targets).abs().mean()
"""

from extcon_cli.tasks.base import Batch, Metrics, Task
from extcon_cli.tasks.detection import Detection
from extcon_cli.tasks.labels import Classification, MultiLabel
from extcon_cli.tasks.language import CausalLM, MaskedLM
from extcon_cli.tasks.regression import Regression
from extcon_cli.tasks.segmentation import Segmentation

__all__ = [
    "TASKS",
    "Batch",
    "CausalLM",
    "Classification",
    "Detection",
    "MaskedLM",
    "Metrics",
    "MultiLabel",
    "Regression",
    "Segmentation",
    "Task",
]

_BUILT_IN = (Classification, MultiLabel, Regression, Segmentation, Detection, CausalLM, MaskedLM)
TASKS: dict[str, type[Task]] = {task.name: task for task in _BUILT_IN}
"""The built-in ones."""
