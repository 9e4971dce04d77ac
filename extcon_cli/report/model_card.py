"""The model card of a pruned folder in Markdown: what went, what that cost, and how it was checked."""

from __future__ import annotations

from extcon_cli.report.document import comparison, shares
from extcon_cli.report.markdown import table
from extcon_cli.report.numbers import percent
from extcon_cli.report.results.prune import FolderFigures, PruneRecord


def model_card(name: str, record: PruneRecord, folder: FolderFigures) -> str:
    """The top of a card. `{difference}` in it stands for what plain `from_pretrained` was measured to differ by.

    Args:
        name: of the original.
    """
    removal, certificate = record.removal, record.certificate
    double = f" ({certificate.double.relative:.1e} in float64)" if certificate.double else ""
    parts = [
        f"# {name}, pruned",
        f"Made with extcon {record.version}: {removal.filters} of {removal.prunable} prunable channels were removed "
        f"({percent(removal.ratio)}).",
        table(("", "before", "after", "change"), comparison(record.before, record.after)),
    ]
    if folder.config:
        rows = [(f"`{key}`", str(one.before), str(one.after)) for key, one in folder.config.items()]
        parts.append(table(("configuration", "before", "after"), rows))
    parts.append("## Certificate")
    parts.append(
        "\n".join(
            [
                f"- The removal moved outputs by at most {removal.relative_difference:.1e} of the largest{double}.",
                "- `from_pretrained` without extcon opens this folder; outputs differ by {difference} of the largest."
                if folder.widths == "uniform"
                else "- Layers have widths of their own, which no configuration says: open it with "
                "`extcon_cli.load(folder)`.",
                f"- {shares(folder)}.",
                f"- sha256 of the weights before: `{certificate.before}`",
                f"- sha256 of the weights after removal: `{certificate.after}`",
            ]
        )
    )
    return "\n\n".join(parts) + "\n"
