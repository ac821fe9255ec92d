"""The `herdlight` command: scoring footage, measuring a model, training, the gate, and what this machine can do.

Exit status: 0 done, 1 could not be done (one line on standard error says why), 2 the command line is not understood,
130 interrupted. Light to import: what needs torch, MLflow or Prefect is imported by the command that needs it, and
flows run in a process that takes this one's place.
"""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from app.door import door
from app.library_command import score_library
from app.score_command import score
from app.score_options import DEFAULT_MODEL
from models.errors import DataError, GateRefused
from tasks.shell import quiet_environment

app = typer.Typer(
    name="herdlight",
    help="Finds the seconds of wildlife footage worth sharing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# A flow knows its own arguments; what this command does not know goes through as it is.
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


app.command()(score)
app.command()(score_library)


@app.command(name="export")
def export_(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="The folder that `herdlight score` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder for what is written; made where it is missing.")],
    footage: Annotated[
        list[Path] | None,
        typer.Option(help="A folder with the scored videos at any depth, or one video; may be given more than once."),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            help="Comma-separated: json, csv, parquet, vtt, edl, otio, fcp7xml, fcpxml, llc, clips, reel, "
            "timeline, contact-sheet, html, camtrap-dp, or all."
        ),
    ] = None,
    start: Annotated[
        list[str] | None,
        typer.Option(metavar="VIDEO=TIME", help="When a video starts, ISO 8601 with its zone, for camtrap-dp."),
    ] = None,
    place: Annotated[
        str | None,
        typer.Option(metavar="LATITUDE,LONGITUDE", help="Where the videos were recorded, degrees, for camtrap-dp."),
    ] = None,
) -> None:
    """Hand highlights on: tables, chapters, editing timelines, clips, one reel, a contact sheet, a page, Camtrap DP.

    A video that is missing, is not the one that was scored, or cannot be read is rejected with its reason, and the
    others go on. The exit status is 0 when at least one result was handed on, or there were none; else 1.
    """
    with door():
        from app.handoff import export_highlights

        report = export_highlights(results, footage or [Path()], out, formats or ["all"], start or [], place)
        if report.rejected and not any(report.files.values()):
            raise DataError(f"nothing could be handed on; {out / 'export.json'} says why for each")


@app.command(context_settings={"ignore_unknown_options": True})
def features(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE...", help="Keys as below; --key VALUE means the same.")
    ] = None,
) -> None:
    """Save what an image tower makes of every frame, in the files and with the words of video_features.

    Videos: video_paths=PATH or "[A, B]", or file_with_video_paths=FILE. Tower: feature_type=clip|timm|resnet|onnx,
    model_name=ViT-B/32. Rows: extraction_fps=1 or extraction_total=N, else every frame. Where: device=cuda:0,
    device_ids="[0, 1]" or cpu=true; batch_size=32. What with it: on_extraction=print|save_numpy|save_pickle,
    output_path=./output; show_pred=true, pred_texts="['a dog smiles', 'a woman is lifting']".

    Of herdlight: pretrained=TAG of open_clip, weights=FILE.safetensors, FILE.onnx or a folder of stage pretrain,
    architecture=NAME for model_name=custom, resize=reference|decoder. For onnx: image_size, mean, std, onnx_input,
    onnx_output, channels=rgb|bgr.

    Features that are there and open are kept. A video that cannot be read is rejected with its reason and the others
    go on; the exit status is then 1.
    """
    with door():
        from app.features import extract_features

        if not extract_features(words or []):
            sys.exit(1)


@app.command()
def evaluate(
    videos: Annotated[Path, typer.Option(help="Folder with the videos, at any depth.")],
    labels: Annotated[
        Path,
        typer.Option(
            help="What people say of them: herdlight's annotations.json, TVSum's labels.json, or HDF5 with a group for "
            "each video and user_scores [shots, annotators] in it. Named by path or by stem of the video."
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model of the registry (models:/NAME@ALIAS, runs:/RUN_ID/model) or a folder with a served model or "
            f"an ensemble; several are averaged. By default {DEFAULT_MODEL}."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for evaluation.json and videos.csv; made where it is missing.")
    ] = Path("evaluation"),
    num_bootstrap: Annotated[
        int, typer.Option(min=100, max=100_000, help="Draws of whole videos behind every interval.")
    ] = 1000,
) -> None:
    """Measure a model on a folder of labelled videos that it was not trained on.

    Prints rank correlation with each annotator (Kendall's tau-b, Spearman's rho), top-5 mAP and the frame figures,
    beside random, uniform and human rows. A video that cannot be read or that its labels do not fit is rejected with
    its reason, and the others go on. The exit status is 0 when at least one video was evaluated, else 1.
    """
    with door():
        from app.evaluating import evaluate_folder
        from tasks.evaluate import EvaluateParams

        params = EvaluateParams.model_validate({"num_bootstrap": num_bootstrap})
        evaluate_folder(model or [DEFAULT_MODEL], videos, labels, out, params)


@app.command(context_settings=_PASS_ON)
def train(
    context: typer.Context,
    profile: Annotated[str | None, typer.Option(help="Name of a file in params/ whose values come first.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One value of params.yaml, as train.epochs=5."),
    ] = None,
) -> None:
    """Run the training flow: every stage, the registry, the gate, and promotion if the gate lets it pass."""
    arguments = ["--profile", profile] if profile else []
    for value in set_ or []:
        arguments += ["--set", value]
    _become("flows.train", [*arguments, *context.args])


@app.command(context_settings=_PASS_ON)
def serve(context: typer.Context) -> None:
    """Serve the deployments until stopped: nightly training, and scoring of what is new in the inbox."""
    _become("flows.serve", context.args)


@app.command(context_settings=_PASS_ON)
def rollback(context: typer.Context) -> None:
    """Give the alias champion back to the version that had it before."""
    _become("flows.rollback", context.args)


@app.command(context_settings=_PASS_ON)
def summary(context: typer.Context) -> None:
    """Show the latest training run again: models, verdict, energy, and where to look next."""
    _become("flows.summary", context.args)


@app.command()
def gate(
    verdict: Annotated[Path, typer.Option(help="The verdict that stage gate wrote.")] = Path("build/gate/verdict.json"),
) -> None:
    """Print the gate's verdict line by line; the exit status is 1 when it refused."""
    with door():
        from app.verdict import print_verdict

        if not print_verdict(verdict, Console()):
            raise GateRefused("the gate refused the candidate; the lines marked above say why")


@app.command()
def ladder(
    table: Annotated[Path, typer.Option(help="The table that stage ladder wrote.")] = Path("build/ladder/ladder.json"),
) -> None:
    """Print the compression ladder: what each rung costs and saves, which one was chosen, and why."""
    with door():
        from app.ladder import print_ladder

        print_ladder(table, Console())


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as a JSON list.")] = False,
) -> None:
    """Say what this machine can do, and what to do about what is missing; exit 1 when something required is."""
    with door():
        from app.doctor import all_checks, print_checks

        checks = all_checks(Path.cwd(), os.environ)
        print_checks(checks, Console(), as_json=as_json)
        if any(check.required and not check.ok for check in checks):
            sys.exit(1)


def _become(module: str, arguments: list[str]) -> NoReturn:
    """Replace this process by `python -m module arguments`: exit status and signals are then the flow's own."""
    root = str(Path(__file__).resolve().parents[1])
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([root, known] if known else [root])
    quiet_environment()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


def main() -> None:
    """Run the command line."""
    app(prog_name="herdlight")


if __name__ == "__main__":
    main()
