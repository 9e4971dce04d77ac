"""Runs an exported file in a process of its own, which cannot import extcon: `Elsewhere`, and what that process does.

The process loads the format's file by its path, and answers requests on its pipes: arrays in, arrays out, or how long
a run takes. This file is its program as well; its top imports nothing of extcon.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from statistics import median
from types import TracebackType
from typing import IO, Any

import numpy as np

SECONDS = 0.2
"""How long latency is measured."""


class Elsewhere:
    """An exported file in its own runtime, in another process.

    Args:
        kind: the path of the format's module.
        path: the exported file.
        threads: that the runtime may use.

    Raises: RuntimeError (what went wrong there, in one line).
    """

    def __init__(self, kind: str, path: str, threads: int) -> None:
        command = [sys.executable, "-I", __file__, kind, path, str(threads)]
        quiet = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=quiet
        )

    def __enter__(self) -> Elsewhere:
        self._ask({"do": "hello"}, [])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, arrays: list[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """The outputs for these inputs."""
        return self._ask({"do": "run"}, arrays)[1]

    def latency(self, arrays: list[np.ndarray[Any, Any]]) -> float:
        """Median seconds of a run."""
        return float(self._ask({"do": "time"}, arrays)[0]["seconds"])

    def costs(self, arrays: list[np.ndarray[Any, Any]]) -> tuple[int | None, int | None]:
        """Numbers that the file holds, and multiply-accumulates for these inputs; None: nobody can tell."""
        answer = self._ask({"do": "count"}, arrays)[0]
        return answer["params"], answer["macs"]

    def _ask(self, question: dict[str, str], arrays: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            _send(self._process.stdin, question, arrays)
            answer, found = _receive(self._process.stdout)
        except (OSError, ValueError) as error:
            raise RuntimeError("the process of its runtime has died") from error
        if "error" in answer:
            raise RuntimeError(str(answer["error"]))
        return answer, found


def clocked(run: Any, *, seconds: float = SECONDS) -> float:
    """Median seconds of a call, after two to warm up."""
    for _ in range(2):
        run()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return median(times)


def _send(pipe: IO[bytes], header: dict[str, Any], arrays: list[Any]) -> None:
    content = io.BytesIO()
    np.savez(content, *arrays)
    body = content.getvalue()
    pipe.write(json.dumps({**header, "bytes": len(body)}).encode() + b"\n")
    pipe.write(body)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> tuple[dict[str, Any], list[Any]]:
    header = json.loads(pipe.readline())
    content = pipe.read(header["bytes"])
    with np.load(io.BytesIO(content), allow_pickle=False) as held:
        return header, [held[f"arr_{place}"] for place in range(len(held.files))]


def _serve(kind: str, path: str, threads: int) -> None:
    """Answer until the other side hangs up."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints is no answer
    sys.modules["extcon_cli"] = None  # type: ignore[assignment]
    questions, run = sys.stdin.buffer, None
    module: Any = None
    while True:
        try:
            question, arrays = _receive(questions)
        except ValueError:  # nothing comes any more
            return
        try:
            if run is None:
                spec = spec_from_file_location("format", kind)
                assert spec is not None
                assert spec.loader is not None
                module = module_from_spec(spec)
                spec.loader.exec_module(module)
                run = module.load(path, threads)
            if question["do"] == "run":
                _send(answers, {}, run(arrays))
            elif question["do"] == "time":
                _send(answers, {"seconds": clocked(lambda given=arrays, ask=run: ask(given))}, [])
            elif question["do"] == "count":
                params, macs = module.costs(path, arrays)
                _send(answers, {"params": params, "macs": macs}, [])
            else:
                _send(answers, {}, [])
        except Exception as error:  # a runtime's own: any kind
            said = (str(error).strip().splitlines() or [""])[0][:300]
            _send(answers, {"error": f"{type(error).__name__}: {said}"}, [])


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
