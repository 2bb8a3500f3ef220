"""``sxq plan``: what a plan says, and how two of them differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .models import build_model
from .output import AsJson, print_json, print_table
from .streams import to_stderr

if TYPE_CHECKING:
    from snn_extreme_quant.config import PrecisionPlan

__all__ = ["plan"]

plan = typer.Typer(no_args_is_help=True, help="Show a precision plan, or how two of them differ.")

PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="A PrecisionPlan in JSON.")]
Of = Annotated[str | None, typer.Option("--model", metavar="MODEL", help="MODULE:NAME or a folder: layers and bytes.")]


@plan.command()
def show(file: PlanFile, model: Of = None, as_json: AsJson = False) -> None:
    """Show the precision of each name, or of each layer of a model with the bytes that it takes."""
    from snn_extreme_quant.config import PrecisionPlan

    read = PrecisionPlan.load(file)
    if model is None:
        rows = [(name, repr(config), str(config.bits)) for name, config in (*read.rules, ("(others)", read.default))]
        if as_json:
            print_json({"rules": [dict(zip(("name", "precision", "bits"), row, strict=True)) for row in rows]})
        else:
            print_table(("name", "precision", "bits"), rows)
        return
    with to_stderr():
        from snn_extreme_quant.accounting import weight_memory

        memory = weight_memory(build_model(model, None, None, None), read)
    if as_json:
        layers = [
            {"name": m.name, "shape": m.shape, "precision": m.config.to_dict(), "bytes": m.total}
            for m in memory.matrices
        ]
        print_json({"layers": layers, "other": memory.other, "total": memory.total, "as_float": memory.as_float})
        return
    layer_rows = [(m.name, "x".join(map(str, m.shape)), repr(m.config), f"{m.total:,}") for m in memory.matrices]
    layer_rows.append(("(others)", "", "float", f"{memory.other:,}"))
    print_table(("layer", "shape", "precision", "bytes"), layer_rows)
    typer.echo(f"{memory.total:,} bytes, {memory.reduction:.1%} below float32")


@plan.command()
def diff(
    first: PlanFile,
    second: Annotated[Path, typer.Argument(metavar="PLAN", help="Another one.")],
    model: Of = None,
    as_json: AsJson = False,
) -> None:
    """Show where two plans differ; status 1 if they do. With a model layer by layer, else name by name."""
    from snn_extreme_quant.config import PrecisionPlan

    plans = [PrecisionPlan.load(path) for path in (first, second)]
    names = list(dict.fromkeys(name for each in plans for name, _ in each.rules))
    if model is not None:
        with to_stderr():
            from snn_extreme_quant.accounting import weight_memory

            made = build_model(model, None, None, None)
            memories = [weight_memory(made, each) for each in plans]
        names = [matrix.name for matrix in memories[0].matrices]
    rows = [(name, *(_precision(each, name) for each in plans)) for name in names]
    if model is None:
        rows.append(("(others)", *(repr(each.default) for each in plans)))
    rows = [row for row in rows if row[1] != row[2]]
    if as_json:
        found = {"differences": [dict(zip(("name", "first", "second"), row, strict=True)) for row in rows]}
        print_json(found | ({} if model is None else {"bytes": [memory.total for memory in memories]}))
    elif rows:
        print_table(("name", str(first), str(second)), rows)
        if model is not None:
            typer.echo(f"{memories[0].total:,} bytes, {memories[1].total:,} bytes")
    else:
        typer.echo("the plans say the same")
    if rows:
        raise typer.Exit(1)


def _precision(plan: PrecisionPlan, name: str) -> str:
    return repr(plan.config_for(name))
