"""Reading YAML: the traps of YAML 1.1, lines, and everything that is no YAML."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extcon_cli.errors import RecipeError
from extcon_cli.recipe.document import Place, read, write


def values(text: str) -> Any:
    document = read(text, "recipe.yaml")
    assert document.problems == []
    return document.values


def problems(text: str) -> list[str]:
    return [str(problem) for problem in read(text, "recipe.yaml").problems]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("3e-4", 3e-4),
        ("1e3", 1000.0),
        ("5E-4", 5e-4),
        (".5", 0.5),
        ("1.", 1.0),
        ("-1e-8", -1e-8),
        ("1.0e-08", 1e-8),
        ("10", 10),
        ("-3", -3),
        ("010", 10),
        ("1_000", 1000),
        ("0x10", 16),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("no", "no"),
        ("No", "No"),
        ("off", "off"),
        ("yes", "yes"),
        ("on", "on"),
        ("y", "y"),
        ("12:30:45", "12:30:45"),
        ("2024-01-31", "2024-01-31"),
        ("~/data", "~/data"),
        (".inf", ".inf"),
        ("'3e-4'", "3e-4"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("=", "="),
        ("<<", "<<"),
    ],
)
def test_a_scalar_means_what_people_expect(text: str, meaning: object) -> None:
    found = values(f"a: {text}")["a"]
    assert found == meaning
    assert type(found) is type(meaning)


def test_keys_are_text() -> None:
    assert values("{no: 1, 5: 2, null: 3, 1e3: 4, <<: 5}") == {"no": 1, "5": 2, "null": 3, "1e3": 4, "<<": 5}


def test_each_key_and_each_entry_has_its_line() -> None:
    document = read("a:\n  b: 1\n\n  c:\n  - 1\n  - 2\n", "r.yaml")
    assert {key: place.line for key, place in document.places.items() if key} == {
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "c"): 4,
        ("a", "c", 0): 5,
        ("a", "c", 1): 6,
    }
    assert document.place(("a", "c", 1, "x", "y")) == Place("r.yaml", 6)


def test_a_key_given_twice_is_a_problem() -> None:
    assert problems("a: 1\nb:\n  c: 1\n  c: 2\na: 3") == [
        "recipe.yaml:4: b.c: given twice, first at line 3",
        "recipe.yaml:5: a: given twice, first at line 1",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: !!python/object:os.system x", "recipe.yaml:1: a: the tag !!python/object:os.system is not supported"),
        ("a: !mine {b: 1}", "recipe.yaml:1: a: the tag !mine is not supported"),
        ("a: !!binary aGk=", "recipe.yaml:1: a: the tag !!binary is not supported"),
        ("\n? [1, 2]\n: 3", "recipe.yaml:2: a key should be one word"),
        ("a: 1e999", "recipe.yaml:1: a: 1e999 is not a finite number"),
        (f"a: {'9' * 5000}", "recipe.yaml:1: a: a number of more than 100 digits"),
        ("a: !!bool maybe", "recipe.yaml:1: a: should be true or false, not 'maybe'"),
    ],
)
def test_what_a_recipe_cannot_hold_is_named(text: str, problem: str) -> None:
    assert problems(text) == [problem]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n\tepochs: 1", r"r:2: broken YAML: .*indent with spaces, not tabs"),
        ("a: [1, 2\nb: 3", r"r:2: broken YAML: .*expected ',' or '\]'"),
        ("a: {b: 1", "r:1: broken YAML"),
        ("a: 'open", "r:1: broken YAML: .*unexpected end"),
        ("a: b: c", "r:1: broken YAML: mapping values are not allowed here"),
        ("a: 1\n b: 2", "r:2: broken YAML"),
        ("a: 1\n---\nb: 2", "r:2: broken YAML: .*single document"),
        ("a: &x 1\nb: *x", r"r:2: broken YAML: aliases such as \*x are not supported"),
        ("a: %", "r:1: broken YAML"),
        ("a: \x00", "r: broken YAML: it holds characters"),
        ("[" * 20_000, "r: nested too deeply"),
    ],
)
def test_broken_yaml_is_one_line_with_its_place(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        read(text, "r")
    assert "\n" not in str(caught.value)


def test_laughing_a_billion_times_is_refused() -> None:
    text = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)
    )
    with pytest.raises(RecipeError, match="aliases"):
        read(text, "r")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_read_gives_back_what_write_wrote(value: object) -> None:
    assert values(write({"a": value})) == {"a": value}


@given(st.sampled_from(["3e-4", "no", "1_0", "0x1", "010", ".5", "true", "~", "", "12:30", "1e5", "- a", "a: b", "#"]))
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    assert values(write({"a": text, text: 1})) == {"a": text, text: 1}


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(RecipeError):
        read(text, "r")
