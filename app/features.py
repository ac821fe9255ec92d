"""The door to feature extraction: finds the tower, shows progress, prints what became of each video."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from app.feature_arguments import FeatureArguments, parse_arguments
from app.rejected import print_rejected
from models.errors import ParamsError
from tasks.footage import Footage, list_footage, printable

if TYPE_CHECKING:
    from models.feature_tower import TowerChoice


def extract_features(words: Sequence[str]) -> bool:
    """Do what the words of the command line ask for, print what became of each video; return whether all were read."""
    arguments = parse_arguments(words)
    footage = _footage(arguments)
    from tasks.feature_workers import choose_devices, extract_all  # torch takes seconds; mistyped words are told before
    from tasks.features import FeatureOptions, refuse_same_stems

    options = FeatureOptions(
        arguments.feature_type,
        arguments.model_name,
        arguments.output_path,
        arguments.on_extraction,
        arguments.extraction_fps,
        arguments.extraction_total,
        arguments.batch_size,
        arguments.exact_resize,
        _pred_texts(arguments),
    )
    refuse_same_stems(footage, options)
    devices, remark = choose_devices(arguments.devices)
    err = Console(stderr=True)
    if remark:
        err.print(Text(remark), soft_wrap=True)
    talks = options.on_extraction == "print" or bool(options.pred_texts)
    with _progress(len(footage), err, hidden=talks) as (say, on_done):
        report = extract_all(_choice(arguments), devices, footage, options, say, on_done)
    print_rejected(sorted(report.rejected, key=lambda row: row.video), err)
    kept = sum(row.kept for row in report.extracted)
    counts = f"{len(report.extracted)} videos with features" + (f" ({kept} kept from before)" if kept else "")
    place = "" if options.on_extraction == "print" else f"; in {printable(str(options.folder))}"
    err.print(Text(f"{counts}, {len(report.rejected)} rejected{place}"), soft_wrap=True)
    return not report.rejected


def _footage(arguments: FeatureArguments) -> list[Footage]:
    """Return the videos in random order where they are saved, so that runs side by side do not meet at each."""
    footage: list[Footage] = []
    for path in arguments.videos:
        footage += list_footage([path]) if path.is_dir() else [Footage(path, printable(str(path)))]
    if arguments.on_extraction != "print":
        random.SystemRandom().shuffle(footage)
    return footage


def _choice(arguments: FeatureArguments) -> "TowerChoice":
    from models.feature_tower import TowerChoice

    name = arguments.model_name
    if arguments.feature_type == "resnet":  # torchvision's ResNets and their first weights, which timm has too
        return TowerChoice("timm", f"{name}.tv_in1k", None, arguments.weights)
    if arguments.feature_type == "clip" and name == "custom":
        if arguments.weights is None:
            raise ParamsError("model_name=custom needs weights=FILE, and architecture=NAME where it is not ViT-B/32")
        name = "custom" if arguments.weights.is_dir() else arguments.architecture
    return TowerChoice(arguments.feature_type, name, arguments.pretrained, arguments.weights, arguments.onnx)  # type: ignore[arg-type]


def _pred_texts(arguments: FeatureArguments) -> tuple[str, ...]:
    """Return the texts to print the probabilities of: those given, or the classes of Kinetics-400 as photos of them."""
    if not arguments.show_pred:
        return ()
    if arguments.feature_type != "clip":
        raise ParamsError(f"show_pred: {arguments.feature_type} has no text tower; leave it out")
    if arguments.pred_texts is not None:
        return arguments.pred_texts
    import models.torchvision_operators  # noqa: F401
    from torchvision.models.video import R3D_18_Weights  # isort: skip  (after models.torchvision_operators)

    return tuple(f"a photo of {name}" for name in R3D_18_Weights.KINETICS400_V1.meta["categories"])


@contextmanager
def _progress(
    num_videos: int, console: Console, *, hidden: bool
) -> Iterator[tuple[Callable[[str], None], Callable[[str], None]]]:
    """Show a bar on standard error; yield what says a line on standard output, and what counts a video."""
    columns = (TextColumn("features"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    name = TextColumn("{task.description}", markup=False)
    with Progress(*columns, name, console=console, transient=True, redirect_stdout=False, disable=hidden) as progress:
        task = progress.add_task("", total=num_videos)

        def say(line: str) -> None:
            print(line.encode(errors="replace").decode(), flush=True)

        def on_done(video: str) -> None:
            progress.update(task, advance=1, description=video)

        yield say, on_done
