"""What was `forkwise lab`: a sentence that says the new name."""

from __future__ import annotations

from forkwise.cli.layout import example, make_app
from forkwise.errors import InputError

app = make_app("Now forkwise study.")


@app.command(
    "compare",
    epilog=example("forkwise study run studies/grid.yaml --out runs/grid"),
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def lab_compare() -> None:
    """Says the new name: forkwise study run."""
    raise InputError("forkwise lab compare is now forkwise study run FILE --out FOLDER, with a study file of your own.")
