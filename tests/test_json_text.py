"""JSON of damaged or hostile files ends in a value or in ValueError, never in another error."""

from __future__ import annotations

import pytest

from extcon_cli.json_text import parse_json


def test_what_json_says_is_returned() -> None:
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "{", "", b"\xff\xfe\x00"])
def test_what_is_no_json_or_nested_too_deeply_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"recursion|Expecting|decode"):
        parse_json(text)


def test_a_constant_that_is_no_json_can_be_refused() -> None:
    def refuse(name: str) -> float:
        raise ValueError(name)

    with pytest.raises(ValueError, match="NaN"):
        parse_json("NaN", parse_constant=refuse)
