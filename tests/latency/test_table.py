"""The table of layer times: kept whole, never believed blindly, measured once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from extcon_cli.channels.layers import LayerShape
from extcon_cli.latency import table as tables
from extcon_cli.latency.runtimes import Setting
from extcon_cli.latency.table import FOLDER, Table, cache_folder

WHERE = Setting("torch", 1, threads=1)
CONV = LayerShape(4, 8, (1, 5, 5), (3, 3), (1, 1), (1, 1), (1, 1))
MATRIX = LayerShape(4, 8, (2,))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[LayerShape]:
    """What has been measured; a layer takes as many nanoseconds as it has multiply-accumulates."""
    seen: list[LayerShape] = []

    def measure(shapes: Sequence[LayerShape], setting: Setting) -> list[float]:
        seen.extend(shapes)
        return [1e-9 * shape.macs for shape in shapes]

    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    monkeypatch.setattr(tables, "_measured", measure)
    return seen


def test_a_layer_is_measured_once_and_kept(measured: list[LayerShape]) -> None:
    table = Table.of(WHERE)
    assert table.measure([CONV, MATRIX, CONV]) == [1e-9 * CONV.macs, 1e-9 * MATRIX.macs, 1e-9 * CONV.macs]
    assert measured == [CONV, MATRIX]
    table.save()
    again = Table.of(WHERE)
    assert again.seconds == table.seconds
    assert again.measure([CONV]) == [1e-9 * CONV.macs]
    assert len(measured) == 2
    assert Table.of(Setting("torch", 1, threads=2)).seconds == {}


def test_two_processes_lose_nothing_of_each_other(measured: list[LayerShape]) -> None:
    first, second = Table.of(WHERE), Table.of(WHERE)
    first.measure([CONV])
    second.measure([MATRIX])
    first.save()
    second.save()
    assert set(Table.of(WHERE).seconds) == {CONV, MATRIX}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "\x00\xff" * 9,
        lambda text: text.replace('"format": 1', '"format": 99'),
        lambda text: text.replace("1e-07", "-1.0").replace("4, 8, [2]", "4, 8, [-2]"),
        lambda text: json.dumps({"format": 1, "layers": [[[4, 8, [2], [], [], [], [], 1, False], "soon"]]}),
        lambda text: json.dumps({"format": 1, "layers": [[[4, "8", [2]], 1.0]]}),
        lambda text: json.dumps({"format": 1, "layers": [[[4, 8, [2]], float("nan")]]}),
        lambda text: json.dumps({"format": 1, "layers": [7]}),
    ],
)
def test_a_damaged_table_is_measured_anew(measured: list[LayerShape], damage) -> None:
    table = Table.of(WHERE)
    table.measure([MATRIX])
    table.save()
    assert table.path is not None
    text = damage(table.path.read_text())
    table.path.write_text(text)
    assert Table.of(WHERE).seconds == {}
    table.save()
    assert Table.of(WHERE).seconds == table.seconds


def test_a_folder_that_cannot_be_written_is_no_error(
    measured: list[LayerShape], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "file" / "cache"))
    table = Table.of(WHERE)
    table.measure([CONV])
    table.save()
    monkeypatch.delenv(FOLDER)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache_folder() is None
    assert Table.of(WHERE).path is None


def test_what_is_too_late_is_estimated(measured: list[LayerShape]) -> None:
    table = Table.of(WHERE)
    table.measure([MATRIX])
    table.until = 0.0
    assert table.measure([CONV]) == [pytest.approx(1e-9 * CONV.macs)]
    assert table.estimated == 1
    assert CONV not in table.seconds


def test_the_real_thing_takes_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "SECONDS", 1e-3)
    wide = LayerShape(64, 64, (1, 16, 16), (3, 3), (1, 1), (1, 1), (1, 1))
    narrow, broad = Table(WHERE).measure([wide.at(4, 4), wide])
    assert 0 < narrow < broad
