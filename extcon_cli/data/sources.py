"""Which reader opens which dataset, by the name that a recipe gives."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from extcon_cli.data import arrays, detection, pictures, saved, segmentation, table, text, torchvision_sets, user
from extcon_cli.data.splits import Source
from extcon_cli.errors import DataError
from extcon_cli.recipe.schema import DataSpec

BY_NAME = {
    "digits": arrays.digits,
    "eggholder": arrays.eggholder,
    "arrays": arrays.arrays,
    "csv": table.table,
    "text": text.text,
    "saved": saved.saved,
    "image_folder": pictures.image_folder,
    "imagenet": pictures.image_folder,
    "segmentation_folder": segmentation.segmentation_folder,
    "coco": detection.coco,
}
"""What opens each dataset: a function of the recipe's section `data` and the task."""


def find_source(spec: DataSpec, task: str, *, trust_code: bool) -> Source:
    """The splits of the dataset that the recipe names (DataError: there is none of this name, or it cannot be read)."""
    name = spec.dataset
    if ":" in name:
        return user.user_function(spec, task, trust_code=trust_code)
    plain = name.lower().replace("-", "").replace("_", "")
    if name in BY_NAME or plain in ("imagefolder", "imagenet"):
        return BY_NAME.get(name, pictures.image_folder)(spec, task)
    if plain in torchvision_sets.TORCHVISION:
        return torchvision_sets.torchvision_set(spec, torchvision_sets.TORCHVISION[plain])
    known = [*BY_NAME, *torchvision_sets.TORCHVISION]
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}, file.py:function"
    looks_like_a_file = Path(name).suffix in (".npz", ".csv", ".safetensors", ".txt", ".jsonl")
    raise DataError(
        f"unknown dataset {name!r}: "
        + ("set data.dataset to arrays, csv or text, and data.root to the file" if looks_like_a_file else hint)
    )
