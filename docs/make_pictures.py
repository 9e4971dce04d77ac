"""The README's pictures: `python docs/make_pictures.py` runs `extcon prune` on the sample and draws what came of it.

The command runs in a pseudo-terminal, as it would for a person. `pictures/terminal.svg` is what is left on the screen
at the end (rich's SVG export); `pictures/bifurcation.svg` is the figure of the run's HTML report. Nothing is drawn by
hand. Another machine gives other seconds, and other last digits. Needs a system with pseudo-terminals (not Windows).
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
SAMPLE = "digits_resnet"
COLUMNS = 110
ROUGH = 0.1
"""Points of the figure: a curve is drawn by straight lines that lie no farther from it."""
PLAIN_FONT = "font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"


def main() -> None:
    """Run the command in a folder of its own; replace both pictures."""
    PICTURES.mkdir(exist_ok=True)
    command = f"extcon prune sample_models/{SAMPLE}.pt --ratio 0.5"
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder, "sample_models")
        samples.mkdir()
        for suffix in (".pt", ".yaml"):
            shutil.copy(ROOT / "sample_models" / f"{SAMPLE}{suffix}", samples)
        output = in_terminal([*command.split()[1:], "--report", "report.html"], Path(folder))
        (PICTURES / "terminal.svg").write_text(terminal_svg(command, screen(output)), encoding="utf-8")
        report = Path(folder, "report.html").read_text(encoding="utf-8")
        (PICTURES / "bifurcation.svg").write_text(bifurcation_svg(report), encoding="utf-8")


def in_terminal(arguments: list[str], folder: Path) -> str:
    """What `extcon ARGUMENTS` sends to a terminal of COLUMNS columns."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    for name in ("CI", "NO_COLOR", "COLUMNS", "GITHUB_STEP_SUMMARY"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "extcon_cli", *arguments]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=writer, stderr=writer, stdin=writer) as process:
        os.close(writer)
        output = b"".join(chunks(reader))
    os.close(reader)
    if process.returncode:
        raise SystemExit(f"extcon failed with exit code {process.returncode}:\n{output.decode()}")
    return output.decode("utf-8")


def chunks(reader: int) -> Iterator[bytes]:
    """Everything until the terminal is closed at the other side, which Linux says with an error."""
    while True:
        try:
            chunk = os.read(reader, 65536)
        except OSError:
            return
        if not chunk:
            return
        yield chunk


def screen(output: str) -> list[str]:
    """The lines that are left when all has been drawn, colours included.

    Knows the moves that rich's live display makes: a new line, back to its start, one line up, erase the line.
    """
    lines, row = [""], 0
    for part in re.split(r"(\r?\n|\r|\x1b\[\d*[A-HJKhl]|\x1b\[\?\d+[hl])", output):
        if part.endswith("\n"):
            row += 1
            lines.extend([""] * (row + 1 - len(lines)))
        elif part.startswith("\x1b[") and part.endswith("A"):
            row = max(0, row - int(part[2:-1] or 1))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part and not part.startswith(("\r", "\x1b[?")):
            lines[row] += part
    return lines


def terminal_svg(command: str, lines: list[str]) -> str:
    """The screen as rich draws it; the font is the reader's own, nothing is loaded from anywhere."""
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    console.print(Text.assemble(("$ ", "green"), (command, "bold")))
    console.print(Text.from_ansi("\n".join(lines).replace(", --report report.html", "").rstrip()))
    svg = console.export_svg(title="extcon", theme=MONOKAI, unique_id="extcon")
    svg = re.sub(r"@font-face\s*{[^}]*}", "", svg)
    return re.sub(r"font-family: (Fira Code, monospace|arial)", PLAIN_FONT, svg)


def bifurcation_svg(report: str) -> str:
    """The first figure of the report, as a file of its own, its curves drawn by fewer points."""
    found = re.search(r"Bifurcation.*?(<svg.*?</svg>)", report, flags=re.DOTALL)
    if found is None:
        raise SystemExit("the report has no figure of the bifurcation")
    svg = re.sub(r'(?<= d=")M [-\d.]+ [-\d.]+ \n(?:L [-\d.]+ [-\d.]+ \n)+(?=")', lambda path: fewer(path[0]), found[1])
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}\n'


def fewer(path: str) -> str:
    """A path of straight lines -> one of fewer, to a tenth of a point."""
    numbers = [float(number) for number in re.findall(r"[-\d.]+", path)]
    kept = simplified([complex(x, y) for x, y in zip(numbers[::2], numbers[1::2], strict=True)])
    return "M" + "L".join(f"{point.real:.1f} {point.imag:.1f}" for point in kept)


def simplified(points: list[complex]) -> list[complex]:
    """Ramer, Douglas and Peucker: split at the farthest point until all lie within ROUGH of the lines."""
    first, last = points[0], points[-1]
    if len(points) < 3 or first == last:
        return points
    away = [abs(((point - first) * (last - first).conjugate()).imag) / abs(last - first) for point in points]
    farthest = max(range(len(points)), key=away.__getitem__)
    if away[farthest] <= ROUGH:
        return [first, last]
    return simplified(points[: farthest + 1])[:-1] + simplified(points[farthest:])


if __name__ == "__main__":
    main()
