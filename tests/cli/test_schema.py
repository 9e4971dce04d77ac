"""`extcon schema` describes every command's document; conftest.py holds the real documents of all tests against it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest

from extcon_cli.report.results import COMMANDS

from .conftest import Extcon


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_schema(extcon: Extcon, command: str) -> None:
    done = extcon("schema", command)
    assert done.code == 0, done.err
    schema = json.loads(done.out)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["command"] == {"enum": [command]}


def test_a_document_with_another_key_or_without_one_does_not_pass(extcon: Extcon, place: Path) -> None:
    document = extcon("evaluate", "digits_resnet.pt", "--json").document
    schema = json.loads(extcon("schema", "evaluate").out)
    jsonschema.validate(document, schema)
    for change in ({"other": 1}, {"samples": "many"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, **change}, schema)
    shorter = copy.copy(document)
    del shorter["metrics"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(shorter, schema)


def test_another_command_is_refused_with_the_nearest(extcon: Extcon) -> None:
    done = extcon("schema", "evaluat")
    assert done.code == 2
    assert "did you mean evaluate?" in done.error
