"""The report of a run: one HTML page with everything inlined, readable offline and without the run
folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fedapp.store.runfolder import RunFolder
from tasks.atomic import write_bytes
from tasks.errors import FedappError


class MissingExtraError(FedappError):
    """The report needs matplotlib, which comes with the ``report`` extra."""


def write_report(folder: RunFolder) -> Path:
    """Write ``report.html`` from the run's config, events and pictures; returns its path."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError(
            "the report needs matplotlib: pip install 'fedapp[report]', then `fedapp report "
            f"{folder.path}`"
        )
    import jinja2

    from fedapp.report.content import view
    from fedapp.report.page import PAGE

    template, shown = view(folder)
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({"page": PAGE, "family": template}),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("family").render(**shown)
    # names of files need not be UTF-8
    write_bytes(folder.report_file, page.encode(errors="replace"))
    return folder.report_file
