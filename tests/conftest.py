"""For all tests: one thread, unless the environment says otherwise. The models are tiny: more would only wait."""

import importlib.util
import os
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("YOLO_CONFIG_DIR", str(Path(tempfile.gettempdir(), "extcon_tests")))  # not the home folder


settings.register_profile("untimed", deadline=None)  # a busy machine is no defect
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def made() -> ModuleType:
    """tests/made_pictures.py: pictures and models for Ultralytics. (The tests are no package.)"""
    found = importlib.util.spec_from_file_location("made_pictures", Path(__file__).with_name("made_pictures.py"))
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
