"""Text as tokens in memory: .txt and .jsonl files, cut into blocks, or one text a sample where each has a label.

Without a tokenizer each byte is a token: 256 of them, and 256 itself for a masked one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from extcon_cli.data.paths import expanded, split_files
from extcon_cli.data.splits import Arrays, Source
from extcon_cli.errors import DataError, UsageError, one_line
from extcon_cli.json_text import parse_json
from extcon_cli.recipe.schema import DataSpec

SUFFIXES = (".txt", ".jsonl")
TASKS = ("causal_lm", "masked_lm", "classification")


class Tokenizer(Protocol):
    """Text -> token numbers."""

    @property
    def mask(self) -> int | None:
        """The token that stands for one to be guessed; None: there is none."""

    @property
    def size(self) -> int:
        """Tokens that there are."""

    @property
    def named(self) -> bool:
        """Do models of it take their inputs by name (input_ids, attention_mask)?"""

    def __call__(self, text: str) -> list[int]:
        """The tokens of a text, with what ends it."""


@dataclass(frozen=True)
class Bytes:
    """UTF-8: each byte is a token; a zero ends a text."""

    mask: int | None = 256
    size: int = 256
    named: bool = False

    def __call__(self, text: str) -> list[int]:
        return [*text.encode(), 0]


class Saved:
    """The tokenizer of a folder, by transformers; nothing is fetched and no code of the folder runs."""

    def __init__(self, folder: Path) -> None:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise UsageError("data.tokenizer needs transformers: pip install 'extcon[hf]'") from error
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        except Exception as error:  # the library raises whatever its parsers raise
            raise DataError(f"{folder}: no tokenizer that can be read: {one_line(error)}") from error
        self.mask: int | None = self._tokenizer.mask_token_id
        self.size: int = len(self._tokenizer)
        self.named = True

    def __call__(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer(text, verbose=False)["input_ids"]
        end = self._tokenizer.eos_token_id
        return [*tokens, end] if end is not None and tokens[-1:] != [end] else tokens


def tokenizer_of(spec: DataSpec) -> Tokenizer:
    """The one the recipe names (DataError: it cannot be read)."""
    if spec.tokenizer is None:
        return Bytes()
    folder = expanded(spec.tokenizer)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder (data.tokenizer)")
    return Saved(folder)


def text(spec: DataSpec, task: str) -> Source:
    """train.txt with val.txt and test.txt, or one file of which a random part is the test; .jsonl: {"text": ...}.

    A classification takes .jsonl with a "label" beside the "text".
    """
    files = split_files(spec.root, SUFFIXES, spec.dataset)
    documents = {split: list(_documents(path, task)) for split, path in files.items()}
    return tokenised(documents, spec, task, str(spec.root))


def tokenised(documents: dict[str, list[tuple[str, Any]]], spec: DataSpec, task: str, where: str) -> Source:
    """Texts with their labels (None: they have none), by split -> token numbers."""
    if task not in TASKS:
        raise DataError(f"{where}: text is for {', '.join(TASKS)}, not for the task {task}")
    tokenizer = tokenizer_of(spec)
    if task == "masked_lm" and tokenizer.mask is None:
        raise DataError(f"{spec.tokenizer}: this tokenizer has no mask token; task masked_lm needs one")
    names = None
    if task == "classification":
        names = tuple(sorted({str(label) for part in documents.values() for _, label in part}))
        number = {name: at for at, name in enumerate(names)}
        splits = {
            split: _labelled([(tokenizer(words), number[str(label)]) for words, label in part], spec, tokenizer)
            for split, part in documents.items()
        }
    else:
        splits = {
            split: _blocks([token for words, _ in part for token in tokenizer(words)], spec, tokenizer, where)
            for split, part in documents.items()
        }
    return Source.of(splits, names)


def _blocks(tokens: Sequence[int], spec: DataSpec, tokenizer: Tokenizer, where: str) -> Arrays:
    """(N, T) int64 inputs and the same as targets; the last tokens, that fill no block, are left out."""
    size = spec.block_size
    if len(tokens) < 2 * size:
        raise DataError(f"{where}: holds {len(tokens)} tokens; two blocks of {size} are needed (data.block_size)")
    ids = torch.tensor(tokens[: len(tokens) // size * size], dtype=torch.int64).view(-1, size)
    return Arrays({"input_ids": ids} if tokenizer.named else ids, ids)


def _labelled(rows: list[tuple[list[int], int]], spec: DataSpec, tokenizer: Tokenizer) -> Arrays:
    """(N, T) int64 inputs, cut or filled up with zeros, and (N,) int64 classes."""
    size = spec.block_size
    ids = torch.zeros(len(rows), size, dtype=torch.int64)
    seen = torch.zeros(len(rows), size, dtype=torch.int64)
    for at, (tokens, _) in enumerate(rows):
        ids[at, : len(tokens[:size])] = torch.tensor(tokens[:size], dtype=torch.int64)
        seen[at, : len(tokens[:size])] = 1
    labels = torch.tensor([label for _, label in rows], dtype=torch.int64)
    return Arrays({"input_ids": ids, "attention_mask": seen} if tokenizer.named else ids, labels)


def _documents(path: Path, task: str) -> Iterator[tuple[str, Any]]:
    """The texts of a file, each with its label."""
    if path.suffix.lower() == ".txt":
        if task == "classification":
            raise DataError(
                f"{path}: a .txt has no labels for a classification: set `task: causal_lm` or `masked_lm`, "
                "or give a .jsonl with a text and a label in each line"
            )
        yield _read(path), None
        return
    for number, line in enumerate(_read(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: is not JSON: {one_line(error, 80)}") from error
        if not isinstance(found, dict) or not isinstance(found.get("text"), str):
            raise DataError(f'{path}:{number}: should be an object with a "text"')
        if task == "classification" and not isinstance(found.get("label"), str | int):
            raise DataError(f'{path}:{number}: has no "label" (a word or a number), which a classification needs')
        yield found["text"], found.get("label")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 (byte {error.start})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
