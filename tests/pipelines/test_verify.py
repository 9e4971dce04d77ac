"""`verify` reads what a checkpoint says of itself, which may be anything."""

from __future__ import annotations

from typing import Any

import pytest

from extcon_cli.checkpoint.metadata import Metadata
from extcon_cli.pipelines.verify import certified
from extcon_cli.report.results.inspect import THESE_WEIGHTS, TRAINED_ON


@pytest.mark.parametrize(
    ("certificate", "says"),
    [
        ({"after": "abc"}, THESE_WEIGHTS),
        ({"after": "another"}, TRAINED_ON),
        ({}, TRAINED_ON),
        ({"after": [[]]}, TRAINED_ON),
        (None, None),
        ([1], None),
        (10**400, None),
    ],
)
def test_what_a_certificate_says_of_the_weights(certificate: Any, says: str | None) -> None:
    metadata = Metadata(arch="zoo:mlp", history=({"certificate": {"after": "abc"}}, {"certificate": certificate}))
    assert certified(metadata, "abc") == says


def test_no_certificate_says_nothing() -> None:
    assert certified(Metadata(arch="zoo:mlp", history=({"command": "train"},)), "abc") is None
    assert certified(None, "abc") is None
