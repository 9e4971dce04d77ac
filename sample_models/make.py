"""Remake every sample: `python sample_models/make.py` trains the checkpoints, `--digits` writes the bundled data first.

The data come from scikit-learn's copy of the UCI set "Optical Recognition of Handwritten Digits" (CC BY 4.0),
the checkpoints from `extcon train` with the recipes in recipes/train. Same versions, same machine: same bytes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
DIGITS = HERE.parent / "extcon_cli" / "data" / "digits.npz"
CHECKPOINTS = ("digits_resnet", "digits_mlp_stalled", "digits_cnn_stalled", "eggholder_stalled")
TEST_SHARE, SEED = 0.2, 0


def write_digits(path: Path) -> None:
    """1,797 images of 8x8 as uint8 (0..16 stretched to 0..255), split 1,437 to 360, each class alike."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x = np.round(images.reshape(-1, 8, 8) * 255 / 16).astype(np.uint8)
    y = labels.astype(np.uint8)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=TEST_SHARE, stratify=y, random_state=SEED)
    np.savez_compressed(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    print(f"{path}: {len(x_train)} + {len(x_test)} images, {path.stat().st_size} bytes")


def train(name: str, recipe: str) -> None:
    """Through the command line, as a user does it; on one thread, since the last bits depend on their number."""
    arguments = ["train", "--recipe", recipe, "--out", str(HERE / name), "--device", "cpu", "--force"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "extcon_cli", *arguments], check=True, env=one_thread)
    shutil.rmtree(HERE / f"{name}.run")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", action="store_true", help="write digits.npz first (needs scikit-learn)")
    if parser.parse_args().digits:
        write_digits(DIGITS)
    for name in CHECKPOINTS:
        train(f"{name}.pt", f"train/{name}")


if __name__ == "__main__":
    main()
