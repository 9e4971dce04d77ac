"""The process that runs an exported file: it cannot import extcon, and what a runtime prints is no answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from extcon_cli.export.elsewhere import Elsewhere


def test_the_other_process_cannot_import_extcon(tmp_path: Path) -> None:
    (tmp_path / "kind.py").write_text(
        "def load(path, threads):\n    import extcon_cli\n    return lambda arrays: arrays\n"
    )
    with pytest.raises(RuntimeError, match="extcon_cli"), Elsewhere(str(tmp_path / "kind.py"), "no", 1):
        pass
    (tmp_path / "kind.py").write_text("import os\ndef load(path, threads):\n    return lambda arrays: os._exit(1)\n")
    with (
        Elsewhere(str(tmp_path / "kind.py"), "no", 1) as process,
        pytest.raises(RuntimeError, match="has died"),
    ):
        process.run([np.zeros(2)])


def test_a_runtime_s_printing_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "kind.py").write_text(
        "import os\n"
        "def load(path, threads):\n"
        "    print('loaded'); os.write(1, b'more')\n"
        "    return lambda arrays: arrays\n"
    )
    with Elsewhere(str(tmp_path / "kind.py"), "no", 1) as process:
        [same] = process.run([np.arange(3.0)])
        assert same.tolist() == [0, 1, 2]
        assert process.latency([same]) < 1
