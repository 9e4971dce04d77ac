"""`extcon inspect`."""

from __future__ import annotations

from extcon_cli.cli import options as o


def inspect(
    checkpoint: o.Checkpoint,
    recipe: o.RecipeOption = None,
    overrides: o.SetOption = None,
    as_json: o.JsonOption = False,
    quiet: o.QuietOption = False,
    report: o.ReportOption = None,
    trust_code: o.TrustCodeOption = False,
    trust_pickle: o.TrustPickleOption = False,
) -> None:
    """Look into a checkpoint: its layers, widths, parameters and MACs, and which channels can go. Needs no data.

    Example: `extcon inspect model.pt`

    Example: `extcon inspect model.pruned.safetensors --json`
    """
    o.check_checkpoint(checkpoint)
    o.check_reports(report)
    resolved = o.find_recipe("inspect", recipe, checkpoint, overrides)

    from extcon_cli.cli.console import listening
    from extcon_cli.cli.results import deliver

    with listening(quiet=quiet):  # on a terminal: a sign of life while the model is traced
        from extcon_cli.pipelines.inspect import inspect as run

        document = run(
            checkpoint,
            resolved.recipe,
            trust_code=trust_code,
            trust_pickle=trust_pickle,
            trust_recipe=resolved.source == "argument",
        )
    deliver(document, as_json=as_json, reports=report)
