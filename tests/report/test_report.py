"""A report shows what the document holds, loads nothing from anywhere, and is written whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from extcon_cli.errors import UsageError
from extcon_cli.report.document import comparison, widths
from extcon_cli.report.measure import measure, size_and_layers
from extcon_cli.report.numbers import count, duration, factor, percent
from extcon_cli.report.results import CommandResult
from extcon_cli.report.results.inspect import VerifyResult
from extcon_cli.report.results.prune import PruneResult
from extcon_cli.report.results.records import OutputDifference
from extcon_cli.report.results.train import EvaluateResult
from extcon_cli.report.serialise import from_json
from extcon_cli.report.write import summary, write


def pruned(filters: int = 6, checkpoint: str = "net.pt") -> PruneResult:
    """A result as `extcon prune` gives it, with every key."""
    metrics = {"loss": 0.2, "accuracy": 0.98}
    gap = {"largest": 1e-6, "scale": 3.0, "agreement": 1.0, "samples": 8, "relative": 3e-7}
    moments = 5
    document: dict[str, Any] = {
        "schema": "extcon/1",
        "command": "prune",
        "version": "0",
        "checkpoint": checkpoint,
        "output": "net.pruned.safetensors",
        "seed": 0,
        "device": "cpu",
        "threads": 1,
        "recipe": {"prune": {"ratio": 0.5}},
        "before": {"metrics": metrics, "params": 2000, "macs": 3e6, "bytes": 8000, "latency": {"1": 1e-3, "64": 2e-2}},
        "after": {"metrics": metrics, "params": 500, "macs": 1e6, "bytes": 2000, "latency": {"1": 9e-4, "64": 1e-2}},
        "removal": {
            "requested_ratio": 0.5,
            "ratio": 0.5,
            "filters": filters // 2,
            "prunable": filters,
            "removable_share": 0.9,
            "metrics_before_removal": metrics,
            "metrics_after_removal": metrics,
            "max_difference": 1e-6,
            "largest_output": 3.0,
            "relative_difference": 3e-7,
            "argmax_agreement": 1.0,
        },
        "certificate": {
            "exact": True,
            "tolerance": {"float32": 1e-5, "float64": 1e-10},
            "before": "a" * 64,
            "after": "b" * 64,
            "rewrites": [
                {"rule": "cut: constant for all that read it", "where": "conv.weight, dimension 0", "channels": 4}
            ],
            "random": gap,
            "double": gap,
            "evaluation": None,
        },
        "layers": [
            {"name": "conv", "kind": "Conv2d", "before": 8, "after": 4},
            {"name": "bn", "kind": "BatchNorm2d", "before": 8, "after": 4},
            {"name": "scale", "kind": "Scale", "before": None, "after": None},
        ],
        "frozen": [{"group": "fc", "reason": "is an output of the model"}],
        "history": {
            "phases": [
                {"phase": "bifurcate", "steps": [1, 2, 3], "loss": [1.0, 0.5, float("nan")], "validation": None},
                {
                    "phase": "finetune",
                    "steps": [1, 2],
                    "loss": [0.5, 0.4],
                    "validation": {"steps": [2], "loss": [0.4], "accuracy": [0.9]},
                },
            ],
            "bifurcation": {
                "steps": list(range(moments)),
                "norm": [[1.0] * filters] * moments,
                "d": [[0.5] * filters] * moments,
                "decided": [index % 2 == 0 for index in range(filters)],
            },
        },
        "seconds": {"score": 0.5, "total": 3.0},
    }
    return from_json(PruneResult, document)


VERIFIED = VerifyResult(
    checkpoint="a.pt",
    other="b.safetensors",
    max_diff=1e-5,
    verdict=True,
    differences={"random": OutputDifference(1e-6, 3.0, 1.0, 8, 3e-7), "double": None},
    certificate="trained on since the removal",
)
EVALUATED = EvaluateResult(
    checkpoint="net.pt", split="test", samples=3, metrics={"loss": 1.0, "r2": 0.5}, device="cpu", test_caution=None
)


class Page(HTMLParser):
    """What a browser would see: tags, headings, and everything that it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)
        self.loads += [
            value or "" for name, value in attrs if name in ("src", "href") and not (value or "").startswith("#")
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def page(result: CommandResult, folder: Path) -> tuple[str, Page]:
    write(result, folder / "r.html")
    text = (folder / "r.html").read_text()
    return text, Page(text)


def test_a_pruning_shows_every_section_and_loads_nothing(tmp_path: Path) -> None:
    text, seen = page(pruned(), tmp_path)
    assert seen.headings == [
        "Before and after", "Exactness", "Bifurcation", "Loss", "Accuracy", "Widths", "What stays, and why",
    ]  # fmt: skip
    assert not [load for load in seen.loads if not load.startswith("#")]
    assert "url(http" not in text
    assert "@import" not in text
    assert text.count("<svg") == 3


def test_a_document_with_less_shows_less(tmp_path: Path) -> None:
    _, seen = page(EVALUATED, tmp_path)
    assert seen.headings == ["Figures"]
    assert "| loss | 1.0000 |" in summary(EVALUATED)


def test_arg_max_is_for_tasks_that_choose(tmp_path: Path) -> None:
    result = pruned()
    regression = replace(result, run=replace(result.run, recipe={"task": "regression"}))
    assert "arg-max" in summary(result)
    assert "arg-max" in page(result, tmp_path)[0]
    assert "arg-max" not in summary(regression)
    assert "arg-max" not in page(regression, tmp_path)[0]
    assert "arg-max" in summary(VERIFIED)
    assert "arg-max" not in summary(replace(VERIFIED, task="regression"))


def test_verify_says_what_a_certificate_is_of() -> None:
    assert "b.safetensors was trained on since the removal" in summary(VERIFIED)
    assert "b.safetensors was not changed since the removal" in summary(replace(VERIFIED, certificate="these weights"))
    assert "removal" not in summary(replace(VERIFIED, certificate=None))


def test_names_are_text_not_markup(tmp_path: Path) -> None:
    text, _ = page(pruned(checkpoint="<script>alert(1)</script>"), tmp_path)
    assert "<script>" not in text


def test_thousands_of_filters_fit(tmp_path: Path) -> None:
    """Whatever their norms do: here they jump at every moment, which no thinning makes shorter."""
    result, random = pruned(filters=2000), np.random.default_rng(0)
    assert result.history is not None
    trace = replace(
        result.history.bifurcation,
        steps=tuple(range(120)),
        norm=random.random((120, 2000)).tolist(),
        d=random.random((120, 2000)).tolist(),
    )
    page(replace(result, history=replace(result.history, bifurcation=trace)), tmp_path)
    assert (tmp_path / "r.html").stat().st_size < 2e5


def test_the_same_document_gives_the_same_bytes(tmp_path: Path) -> None:
    assert page(pruned(), tmp_path)[0] == page(pruned(), tmp_path)[0]


def test_json_has_null_for_what_json_cannot_say(tmp_path: Path) -> None:
    write(pruned(), tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert found["history"]["phases"][0]["loss"][-1] is None


def test_markdown_tables_are_whole() -> None:
    lines = summary(pruned()).splitlines()
    for head, rule in pairwise(lines):
        if rule.startswith("| ---"):
            assert head.count("|") == rule.count("|")
    assert "168" not in summary(pruned())
    assert "3 of 6 filters removed" in summary(pruned())


def test_another_suffix_is_refused_and_nothing_left(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.html"):
        write(pruned(), tmp_path / "r.pdf")
    with pytest.raises(UsageError, match="cannot be written"):
        write(pruned(), tmp_path / "missing" / "r.md")
    assert not list(tmp_path.iterdir())


def test_rows_compare_sizes_latencies_and_metrics() -> None:
    rows = comparison(pruned().before, pruned().after)
    assert ("parameters", "2.00 k", "500", "4.00 x smaller") in rows
    assert ("latency, batch 64", "20.00 ms", "10.00 ms", "2.00 x faster") in rows
    assert ("accuracy", "98.00 %", "98.00 %", "+0.00 points") in rows
    assert [layer.name for layer in widths(pruned().layers)] == ["conv"]


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (count(174_970), "175.0 k"),
        (count(12), "12"),
        (count(704_480, "B"), "704.5 kB"),
        (duration(0.00038), "380.0 µs"),
        (duration(59.9), "59.9 s"),
        (duration(90), "1:30 min"),
        (duration(4000), "1:06 h"),
        (percent(0.9972), "99.72 %"),
        (factor(4, 1), "4.00 x smaller"),
        (factor(1, 1), "the same"),
        (factor(1, 0), ""),
    ],
)
def test_numbers_as_people_read_them(shown: str, said: str) -> None:
    assert shown == said


def test_sizes_are_counted_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5))
    size, found_layers = size_and_layers(net, (torch.zeros(2, 3, 4, 4),))
    assert size == measure(net, (torch.zeros(2, 3, 4, 4),))
    assert size.params == 3 * 4 * 9 + 8 + 64 * 5 + 5
    assert size.macs == 3 * 4 * 9 * 16 + 64 * 5
    assert size.bytes == 4 * (size.params + 8) + 8  # running statistics, and one int64
    found = {layer.name: layer for layer in found_layers}
    assert (found["0"].inputs, found["0"].outputs, found["0"].macs) == (3, 4, 3 * 4 * 9 * 16)
    assert (found["3"].inputs, found["3"].outputs) == (64, 5)
    assert net.training
    assert torch.equal(net[1].running_mean, torch.zeros(4))
