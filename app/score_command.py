"""The command `herdlight score`; what it does is app/scoring.py's and, below that, tasks.score's."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.door import door
from app.score_options import DEFAULT_MODEL, ModelOption, takes_settings
from models.errors import DataError


@takes_settings
def score(
    paths: Annotated[
        list[Path], typer.Argument(metavar="VIDEO_OR_FOLDER...", help="Videos, and folders with videos at any depth.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; made where it is missing.")],
    settings: dict[str, Any],
    model: ModelOption = DEFAULT_MODEL,
    force: Annotated[bool, typer.Option("--force", help="Score again what an earlier run has scored.")] = False,
) -> None:
    """Find the highlights in videos: spans (JSON), scores (Parquet) and a timeline picture (PNG) for each.

    A video that cannot be read is rejected with its reason, and the others go on. Results that are there for the same
    video, model and settings are kept. The exit status is 0 when at least one video has results, else 1.
    """
    with door():
        from app.scoring import score_footage

        if not score_footage(paths, out, model, settings, force=force).scored:
            raise DataError(f"none of the videos could be scored; {out / 'rejected.json'} says why for each")
