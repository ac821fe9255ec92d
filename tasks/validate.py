"""Stage `validate`: hold the manifest against a Great Expectations suite before anything learns from it.

Knows what a sound data set is (ranges, uniqueness, no leak between splits, label coverage, both classes in every
split, counts), as native expectations on three small tables; knows nothing of video files. Great Expectations runs
in memory; only its Data Docs are written, and `expectations.json`, which has no timestamps.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Self

import great_expectations as gx
import great_expectations.expectations.core as gxe
import pandas as pd
from great_expectations.checkpoint import Checkpoint, UpdateDataDocsAction
from great_expectations.checkpoint.actions import ValidationAction
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.expectations.expectation import Expectation
from pydantic import Field, model_validator

from models.errors import DataError, ValidationFailed
from models.files import read_json, replacing_folder, write_json
from models.importance import tell_misfit
from models.manifest import SPLITS, VideoRow, read_manifest
from models.params import Section
from models.spans import total_duration_s
from tasks.data_docs import make_offline
from tasks.shell import stage_shell

_NUM_NAMED = 5
_SITE = "herdlight"
# Seconds that a sum of highlights may exceed its video by, for rounding.
_ROUNDING_S = 1e-6
_PLAIN = tuple(field.name for field in fields(VideoRow) if field.name not in ("segments", "captions", "importance"))


class ValidateParams(Section):
    """Section `validate` of params.yaml."""

    min_videos_per_split: Annotated[int, Field(ge=1)] = 4
    """Fewest videos in each of train, val and test, at least 1."""
    max_rejected_fraction: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Largest share of rejected rows, 0 to 1."""
    min_duration_s: Annotated[float, Field(gt=0)] = 0.02
    """Shortest video, seconds; the default lets one frame at 50 frames/s pass."""
    max_duration_s: Annotated[float, Field(gt=0)] = 86400.0
    """Longest video, seconds."""
    min_mean_fps: Annotated[float, Field(gt=0)] = 0.05
    """Lowest mean frame rate, frames a second; the default lets a picture every 20 s pass."""
    max_mean_fps: Annotated[float, Field(gt=0)] = 1000.0
    """Highest mean frame rate, frames a second."""
    min_side_px: Annotated[int, Field(ge=1)] = 16
    """Smallest displayed width and height, px."""
    max_side_px: Annotated[int, Field(ge=1)] = 8192
    """Largest displayed width and height, px."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for low, high in (
            ("min_duration_s", "max_duration_s"),
            ("min_mean_fps", "max_mean_fps"),
            ("min_side_px", "max_side_px"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} must be at most {high}")
        return self


@dataclass(frozen=True)
class Outcome:
    """How one expectation went.

    table:          videos, splits or run
    expectation:    Great Expectations' name of it
    columns:        what it looks at
    description:    the same in plain words
    success:        whether it holds
    num_unexpected: rows that break it
    unexpected:     their paths (or splits), sorted
    observed:       what stands there instead, one text for each of them
    """

    table: str
    expectation: str
    columns: tuple[str, ...]
    description: str
    success: bool
    num_unexpected: int
    unexpected: tuple[str, ...]
    observed: tuple[str, ...]


@dataclass(frozen=True)
class Tables:
    """What the suites look at: one row a video (key `path`), one a split (key `split`), one for the run (key `run`)."""

    videos: pd.DataFrame
    splits: pd.DataFrame
    run: pd.DataFrame


def build_tables(rows: Sequence[VideoRow], num_rejected: int) -> Tables:
    """Return the tables of a manifest, with the columns that expectations need and a row does not have."""
    splits_of_group: dict[str, set[str]] = {}
    splits_of_content: dict[str, set[str]] = {}
    for row in rows:
        splits_of_group.setdefault(row.group, set()).add(row.split)
        splits_of_content.setdefault(row.video_id, set()).add(row.split)
    videos = pd.DataFrame.from_records(
        [
            {
                **{name: getattr(row, name) for name in _PLAIN},
                "num_splits_of_group": len(splits_of_group[row.group]),
                "num_splits_of_content": len(splits_of_content[row.video_id]),
                "first_start_s": min((span.start_s for span in row.spans), default=0.0),
                "last_end_s": max((span.end_s for span in row.spans), default=0.0),
                "last_caption_end_s": max((caption.end_s for caption in row.captions), default=0.0),
                "highlight_s": total_duration_s(row.spans),
                "highlight_s_under_bad": total_duration_s(row.spans) if row.folder == "bad" else 0.0,
                "importance_misfit": "" if row.importance is None else tell_misfit(row.importance, row.duration_s),
                "end_s": row.duration_s + _ROUNDING_S,
            }
            for row in rows
        ]
    )
    splits = []
    for split in SPLITS:
        inside = videos[videos["split"] == split]
        highlight_s = float(inside["highlight_s"].sum())
        other_s = max(0.0, float(inside["duration_s"].sum()) - highlight_s)
        splits.append({"split": split, "num_videos": len(inside), "highlight_s": highlight_s, "other_s": other_s})
    run = {"run": "all", "num_videos": len(rows), "rejected_fraction": num_rejected / (num_rejected + len(rows))}
    return Tables(videos, pd.DataFrame(splits), pd.DataFrame([run]))


def build_suites(params: ValidateParams) -> dict[str, list[Expectation]]:
    """Return the expectations on each table of `Tables`, each described in plain words."""
    return {
        "videos": [*_expect_identity(), *_expect_footage(params), *_expect_labels(), *_expect_sides(params)],
        "splits": _expect_splits(params),
        "run": [
            gxe.ExpectColumnValuesToBeBetween(
                column="rejected_fraction",
                max_value=params.max_rejected_fraction,
                description="The share of rejected rows is within its limit",
            )
        ],
    }


def _expect_identity() -> list[Expectation]:
    between = gxe.ExpectColumnValuesToBeBetween
    return [
        gxe.ExpectColumnValuesToBeUnique(column="path", description="Each path stands once"),
        gxe.ExpectColumnValuesToBeUnique(column="video_id", description="Each content stands once"),
        gxe.ExpectColumnValuesToMatchRegex(
            column="video_id", regex="^[0-9a-f]{16}$", description="Identity is 16 hexadecimal digits"
        ),
        gxe.ExpectColumnValuesToBeInSet(column="split", value_set=list(SPLITS), description="Every video has a split"),
        gxe.ExpectColumnValueLengthsToBeBetween(column="group", min_value=1, description="Every video has a group"),
        between(column="num_splits_of_group", max_value=1, description="No recording lies in two splits"),
        between(column="num_splits_of_content", max_value=1, description="No content lies in two splits"),
    ]


def _expect_footage(params: ValidateParams) -> list[Expectation]:
    between = gxe.ExpectColumnValuesToBeBetween
    return [
        between(
            column="duration_s",
            min_value=params.min_duration_s,
            max_value=params.max_duration_s,
            description="Durations are in range, seconds",
        ),
        between(
            column="mean_fps",
            min_value=params.min_mean_fps,
            max_value=params.max_mean_fps,
            description="Mean frame rates are in range, frames/s",
        ),
        # Ranges pass over what is not there, so presence is an expectation of its own.
        gxe.ExpectColumnValuesToNotBeNull(column="duration_s", description="Every video has a duration"),
        gxe.ExpectColumnValuesToNotBeNull(column="mean_fps", description="Every video has a mean frame rate"),
        between(column="num_frames", min_value=1, description="Every video has a frame"),
        between(column="num_bytes", min_value=1, description="No file is empty"),
        gxe.ExpectColumnValuesToBeInSet(
            column="rotation_deg", value_set=[0, 90, 180, 270], description="Rotations are quarter turns"
        ),
    ]


def _expect_labels() -> list[Expectation]:
    between, pair = gxe.ExpectColumnValuesToBeBetween, gxe.ExpectColumnPairValuesAToBeGreaterThanB
    return [
        gxe.ExpectColumnValuesToNotBeNull(column="highlight_s", description="Every video has a resolved label"),
        between(column="first_start_s", min_value=0, description="No highlight starts before 0"),
        pair(column_A="end_s", column_B="last_end_s", or_equal=True, description="No highlight ends after its video"),
        pair(
            column_A="end_s",
            column_B="last_caption_end_s",
            or_equal=True,
            description="No caption ends after its video",
        ),
        pair(
            column_A="end_s",
            column_B="highlight_s",
            or_equal=True,
            description="Highlights are no longer than the video",
        ),
        between(column="highlight_s_under_bad", max_value=0, description="No video under bad/ has a highlight"),
        gxe.ExpectColumnValuesToBeInSet(
            column="importance_misfit", value_set=[""], description="Graded shots cover their video"
        ),
    ]


def _expect_sides(params: ValidateParams) -> list[Expectation]:
    return [
        gxe.ExpectColumnValuesToBeBetween(
            column=side,
            min_value=params.min_side_px,
            max_value=params.max_side_px,
            description=f"Displayed {side}s are in range, px",
        )
        for side in ("width", "height")
    ]


def _expect_splits(params: ValidateParams) -> list[Expectation]:
    between = gxe.ExpectColumnValuesToBeBetween
    return [
        between(
            column="num_videos", min_value=params.min_videos_per_split, description="Every split has enough videos"
        ),
        between(column="highlight_s", min_value=0, strict_min=True, description="Every split has highlight"),
        between(
            column="other_s", min_value=0, strict_min=True, description="Every split has footage without highlight"
        ),
    ]


def validate_tables(tables: Tables, params: ValidateParams, docs: Path | None = None) -> list[Outcome]:
    """Run the suites on `tables`, write Data Docs into the folder `docs` where it is given, return every outcome."""
    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        data_docs_sites={_SITE: _site(docs)} if docs else {},
        progress_bars=ProgressBarsConfig(globally=False),
    )
    actions: list[ValidationAction] = [UpdateDataDocsAction(name="docs", site_names=[_SITE])] if docs else []
    context = gx.get_context(mode="ephemeral", project_config=config)
    source = context.data_sources.add_pandas("manifest")
    definitions, frames = [], {}
    for table, expectations in build_suites(params).items():
        frames[table] = getattr(tables, table)
        suite = context.suites.add(gx.ExpectationSuite(name=table, expectations=expectations))
        batch = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe(table)
        definitions.append(
            context.validation_definitions.add(gx.ValidationDefinition(name=table, data=batch, suite=suite))
        )
    outcomes: list[Outcome] = []
    for definition, key in zip(definitions, ("path", "split", "run"), strict=True):
        checkpoint = Checkpoint(
            name=definition.name,
            validation_definitions=[definition],
            actions=actions,
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [key]},
        )
        result = context.checkpoints.add(checkpoint).run(
            batch_parameters={"dataframe": frames[definition.name]}, run_id=RunIdentifier(run_name="manifest")
        )
        for run in result.run_results.values():
            outcomes += [_outcome(definition.name, key, one) for one in run.results]
    return outcomes


def _site(docs: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs.resolve())},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


def _outcome(table: str, key: str, result: Any) -> Outcome:
    """Return Great Expectations' `result` of one expectation as our own value."""
    config = result.expectation_config
    if result.exception_info and result.exception_info.get("raised_exception"):
        raise DataError(f"expectation {config.type} could not be run: {result.exception_info['exception_message']}")
    found = result.result or {}
    columns = tuple(str(config.kwargs[name]) for name in ("column", "column_A", "column_B") if name in config.kwargs)
    rows = sorted(
        (str(row[key]), " and ".join(_short(row[column]) for column in columns if column in row))
        for row in found.get("unexpected_index_list") or []
    )
    return Outcome(
        table=table,
        expectation=config.type,
        columns=columns,
        description=config.description or "",
        success=bool(result.success),
        num_unexpected=len(rows),
        unexpected=tuple(name for name, _ in rows),
        observed=tuple(value for _, value in rows),
    )


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def tell_failures(outcomes: Iterable[Outcome]) -> str:
    """Return one line that names each failed expectation and its rows, at most five of them and how many there are."""
    lines = []
    for outcome in outcomes:
        if not outcome.success:
            pairs = list(zip(outcome.unexpected, outcome.observed, strict=True))[:_NUM_NAMED]
            named = ", ".join(name if name == value else f"{name} ({value})" for name, value in pairs)
            more = outcome.num_unexpected - _NUM_NAMED
            lines.append(
                f"{outcome.description} ({outcome.expectation} on {outcome.table}: {', '.join(outcome.columns)}) fails "
                f"for {outcome.num_unexpected}: {named}" + (f" and {more} more" if more > 0 else "")
            )
    return "; ".join(lines)


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the content of expectations.json: the same outcomes give the same bytes."""
    return {"success": all(one.success for one in outcomes), "expectations": [asdict(one) for one in outcomes]}


def count_rejected(path: Path) -> int:
    """Return how many rows rejected.json lists. Raises DataError where it is missing or no list."""
    try:
        rejected = read_json(path)
    except (FileNotFoundError, json.JSONDecodeError):
        rejected = None
    if not isinstance(rejected, list):
        raise DataError(f"{path}: not the list of rejected rows; run `dvc repro ingest` first")
    return len(rejected)


def check_outcomes(outcomes: Sequence[Outcome]) -> Mapping[str, float]:
    """Return the stage's metrics. Raises ValidationFailed, naming the rows, where an expectation fails."""
    num_failed = sum(not one.success for one in outcomes)
    if num_failed:
        raise ValidationFailed(f"{tell_failures(outcomes)}; see data_docs/index.html and params.yaml, section validate")
    return {"num_expectations": len(outcomes), "num_failed": num_failed}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage: `python -m tasks.validate --manifest FILE --rejected FILE --out FOLDER`."""
    with stage_shell("validate", ["manifest", "rejected"], argv) as shell:
        params = shell.section("validate", ValidateParams)
        rows = read_manifest(shell["manifest"])
        if not rows:
            raise DataError(f"{shell['manifest']}: the manifest is empty; run `dvc repro ingest` again")
        tables = build_tables(rows, count_rejected(shell["rejected"]))
        with replacing_folder(shell.out / "data_docs") as docs:
            outcomes = validate_tables(tables, params, docs)
            make_offline(docs)
        write_json(shell.out / "expectations.json", summarise(outcomes))
        shell.write_metrics(check_outcomes(outcomes))


if __name__ == "__main__":
    main()
