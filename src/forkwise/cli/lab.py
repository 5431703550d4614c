"""What was `forkwise lab`: a sentence that says the new name."""

from __future__ import annotations

from forkwise.cli.layout import make_app
from forkwise.errors import InputError

app = make_app("Now forkwise study.")


@app.command("compare", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def lab_compare() -> None:
    """Say the new name."""
    raise InputError("forkwise lab compare is now forkwise study run FILE --out FOLDER, with a study file of your own.")
