"""A workspace on Weights & Biases that compares models: `python -m zoo dashboard`.

Runs are grouped by data and model. There are panels for

- the test: a bar for each model and metric, mean and standard deviation over its runs;
- validation: each metric against the step; training: loss terms and schedules;
- pictures: scenes with what was found in them, scenes that the models imagine, clusters of appearance vectors;
- benchmarks: the table and the plots of `python -m zoo benchmark`.

The workspace is made from the project's name alone, so it can be made before there are runs. Its content is written to
OUT, as JSON, and sent to Weights & Biases if one is logged in there.
"""

import argparse
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.commands.arguments import VerbParser
from zoo.files import write_json
from zoo.results import table as results

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

PICTURES = {  # as the callbacks name them
    "scenes/test": "test scenes: input, reconstruction, what was found",
    "scenes/val": "validation scenes, as training goes on",
    "scenes/generated": "scenes drawn from the prior",
    "scenes/composed": "scenes composed of given categories",
    "clusters/embedding": "appearance vectors by t-SNE",
    "clusters/curves": "metrics of the clusters",
}
TABLE, PLOTS = "results", ("comparison/bars", "comparison/progress")  # as `zoo.commands.benchmark` names them
_STEP = "trainer/global_step"  # as Lightning names it: W&B's own step counts calls


class DashboardError(RuntimeError):
    """A workspace that cannot be made or sent."""


def workspace(project: str, entity: str, name: str = "Model comparison") -> "Workspace":
    """Describe the workspace; nothing is sent.

    Args:
        project: On W&B, as in `fit --wandb_project`.
        entity: User or team that the project belongs to.
        name: Of the workspace.

    Raises:
        DashboardError: The package wandb-workspaces is missing or too old.
    """
    try:
        wr: Any = import_module("wandb_workspaces.reports.v2")
        ws: Any = import_module("wandb_workspaces.workspaces")
    except ImportError as error:
        raise DashboardError(
            f"the package wandb-workspaces is missing or too old ({error}): "
            "pip install -U 'object-centric-zoo[dashboard]'"
        ) from None

    def bars(metric: str) -> Any:
        grouped = {"groupby": wr.Config("model"), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
        return wr.BarPlot(title=results.TITLES[metric], metrics=[f"test/{metric}"], **grouped)

    def curve(title: str, metric: str) -> Any:
        return wr.LinePlot(title=title, x=_STEP, y=[metric])

    def curves(title: str, pattern: str) -> Any:
        return wr.LinePlot(title=title, x=_STEP, metric_regex=pattern)

    sections = {
        "Test": [bars(metric) for metric in results.TITLES],
        "Pictures": [wr.MediaBrowser(title=title, media_keys=[key], num_columns=1) for key, title in PICTURES.items()],
        "Validation": [curve(title, f"val/{metric}") for metric, title in results.TITLES.items()],
        "Training": [
            curve("loss", "train/loss"),
            curve("loss in validation", "val/loss"),
            curve("negative ELBO in validation", "val/negative_elbo"),
            curves("loss terms", "^train/(?!loss$).*"),
            curves("schedules", "^schedule/.*"),
        ],
        "Benchmarks": [
            wr.WeavePanelSummaryTable(table_name=TABLE),
            *(wr.MediaBrowser(title=key.split("/")[1], media_keys=[key], num_columns=1) for key in PLOTS),
        ],
    }
    wide = ws.SectionLayoutSettings(columns=1, rows=2)
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[
            ws.Section(
                name=title,
                panels=panels,
                is_open=title in ("Test", "Pictures"),
                **({"layout_settings": wide} if title in ("Pictures", "Benchmarks") else {}),
            )
            for title, panels in sections.items()
        ],
        settings=ws.WorkspaceSettings(x_axis=_STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Config("data"), ws.Config("model")],
            pinned_columns=[f"summary:test/{metric}" for metric in results.TITLES],
        ),
    )


def specification(view: "Workspace") -> dict[str, Any]:
    """What W&B stores of a workspace, as JSON."""
    model = view._to_model()
    about = {"entity": model.entity, "project": model.project, "name": model.display_name}
    return {**about, "spec": json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))}


def send(view: "Workspace") -> str:
    """Put a workspace on W&B; returns its address.

    Raises:
        DashboardError: W&B is out of reach, or refuses it.
    """
    try:
        return str(view.save().url)
    except Exception as error:  # of a dozen kinds, from networks to permissions
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise DashboardError(f"W&B did not take the workspace of {view.entity}/{view.project}: {said[0]}") from error


def main(args: list[str] | None = None) -> None:
    """Parse the command line."""
    parser = VerbParser(
        prog="python -m zoo dashboard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wandb_project", help="project on W&B (WANDB_PROJECT, else object-centric-zoo)")
    parser.add_argument("--entity", help="user or team that it belongs to (WANDB_ENTITY, else who is logged in)")
    parser.add_argument("--name", default="Model comparison", help="of the workspace (Model comparison)")
    parser.add_argument("--out", type=Path, default=Path("dashboard.json"), help="file to write (dashboard.json)")
    modes = ("auto", "online", "offline")
    parser.add_argument("--wandb", choices=modes, default="auto", help="auto: as for fit; offline: the file alone")
    options = parser.parse_args(sys.argv[2:] if args is None else args)
    from zoo.commands.cli import wandb_mode, wandb_project

    online = wandb_mode(options.wandb) == "online"
    try:
        entity = options.entity or os.environ.get("WANDB_ENTITY") or (_account() if online else "")
        view = workspace(wandb_project(options.wandb_project), entity, options.name)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, specification(view))
        print(options.out)
        if online:
            print(send(view))
        else:
            print("W&B is offline: the same command sends it once you have logged in (`wandb login`)")
    except (DashboardError, OSError) as error:
        sys.exit(f"zoo: {error}")


def _account() -> str:
    import wandb

    try:
        account = wandb.Api().default_entity
    except Exception as error:  # as in `send`
        raise DashboardError(f"W&B does not say who is logged in: {str(error).splitlines()[0]}") from error
    if not account:
        raise DashboardError("W&B does not say whose the project is: name the user or team by --entity")
    return account
