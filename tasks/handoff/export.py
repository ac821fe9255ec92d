"""The hand-off as a whole: which formats there are, which files they become, and what became of each video.

    OUT/highlights.json .csv .parquet   all highlights as one table
    OUT/highlights.edl .otio .xml .fcpxml   one timeline of all of them (the EDL only where all count in one rate)
    OUT/videos/STEM.vtt .edl .otio .xml .fcpxml   each video's own chapters and timeline
    OUT/videos/STEM-proj.llc            LosslessCut project of each video
    OUT/clips/STEM.001.mp4              each highlight
    OUT/reel.mp4 and reel.vtt           all of them in one film, and which is where
    OUT/videos/STEM.timeline.png        the picture that scoring made
    OUT/contact-sheet.png, highlights.html
    OUT/camtrap-dp/                     Camera Trap Data Package
    OUT/export.json                     the files, what was rejected, and what to know about the rest; written last

A format knows nothing of the others but the page, which shows the clips and the reel of the same run. Every file is
written beside and renamed; what an earlier export wrote for the same formats and this one did not is removed.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

from models.errors import HerdlightError, ParamsError, VideoError
from models.files import read_json, write_bytes, write_json
from tasks.handoff.camtrap import recording_of, write_camtrap
from tasks.handoff.chapters import write_chapters, write_cues
from tasks.handoff.clips import Clip, write_clip
from tasks.handoff.fcpxml import write_fcpxml
from tasks.handoff.media import load_handoff
from tasks.handoff.mp4 import CRF
from tasks.handoff.options import ExportOptions
from tasks.handoff.page import write_page
from tasks.handoff.pictures import Picture, num_sheets, take_picture, write_contact_sheet
from tasks.handoff.reel import write_reel
from tasks.handoff.tables import write_csv_table, write_json_table, write_parquet_table
from tasks.handoff.timecode import show_rate
from tasks.handoff.timelines import (
    NO_HIGHLIGHT,
    common_rate,
    rate_notes,
    write_edl,
    write_fcp7,
    write_losslesscut,
    write_otio,
)
from tasks.handoff.values import FootageIndex, Handoff, Rejected, Scored, read_results

_INDEX = "export.json"


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    files:          by format, relative to the output folder
    rejected:       what could not be handed on, and why
    notes:          what to know about what was written
    num_videos:     results that were read
    num_highlights: in them
    """

    files: Mapping[str, tuple[str, ...]]
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]
    num_videos: int
    num_highlights: int


@dataclass
class _Job:
    """One export under way: its inputs, and what it has come to so far."""

    out: Path
    scored: list[Scored]
    options: ExportOptions
    results: Path
    on_progress: Callable[[str, float], None]
    handoffs: list[Handoff] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    clips: dict[tuple[str, int], Clip] = field(default_factory=dict)
    reel: Path | None = None
    pictures: list[Picture] | None = None

    @property
    def with_highlights(self) -> list[Handoff]:
        return [item for item in self.handoffs if item.scored.highlights]

    def taken_pictures(self) -> list[Picture]:
        """Return a picture of every highlight, made once; without one where the footage cannot be read."""
        if self.pictures is None:
            media = {item.scored.stem: item for item in self.handoffs}
            wanted = [(video, *pair) for video in self.scored for pair in enumerate(video.highlights, 1)]
            self.pictures = []
            for number, (video, index, highlight) in enumerate(wanted):
                self.on_progress("pictures", number / len(wanted))
                picture = Picture(video, index, highlight, b"")
                try:
                    picture = take_picture(media[video.stem], index, highlight) if video.stem in media else picture
                except VideoError as error:
                    self.reject(video, f"picture at {highlight.start_s:.2f} s", error)
                self.pictures.append(picture)
        return self.pictures

    def reject(self, video: Scored, place: str, error: HerdlightError) -> None:
        self.rejected.append(Rejected(video.video, f"{place}: {error}"))


def export_results(
    results: Path,
    footage: Sequence[Path],
    out: Path,
    formats: Sequence[str],
    options: ExportOptions | None = None,
    on_progress: Callable[[str, float], None] = lambda _, __: None,
) -> ExportReport:
    """Write the highlights of the folder `results` into `out` in `formats` (see FORMATS) and return what was written.

    footage:     folders and files in which the videos lie
    on_progress: called with the format in hand and the share of it that is done, 0 to 1
    A video that is missing, is another one or cannot be read is a rejected row; the tables and chapters, which need
    no footage, still have it. Raises ParamsError for an unknown format, DataError for a folder without results.
    """
    wanted = choose_formats(formats)
    scored, damaged = read_results(results)
    job = _Job(out, scored, options or ExportOptions(), results, on_progress, rejected=list(damaged))
    if any(FORMATS[name].needs_footage for name in wanted):
        _find_footage(job, FootageIndex(footage))
    if partial := [video.video for video in scored if video.partial]:
        _note(job, f"{len(partial)} videos were read in part, and only that is handed on (first: {partial[0]})")
    out.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in wanted:
        on_progress(name, 0.0)
        files[name] = tuple(path.relative_to(out).as_posix() for path in FORMATS[name].write(job))
    report = ExportReport(
        files=files,
        rejected=tuple(job.rejected),
        notes=tuple(job.notes),
        num_videos=len(scored),
        num_highlights=sum(len(video.highlights) for video in scored),
    )
    _finish(out, report)
    return report


def choose_formats(names: Sequence[str]) -> list[str]:
    """Return the formats that `names` mean (comma-separated, "all" for every one), in the order of FORMATS.

    Raises ParamsError for one that does not exist.
    """
    asked = [name.strip().lower() for text in names for name in text.split(",") if name.strip()]
    unknown = [name for name in asked if name != "all" and name not in FORMATS]
    if unknown or not asked:
        what = f"{unknown[0]!r} is no format" if unknown else "no format was named"
        raise ParamsError(f"formats: {what}; there are {', '.join(FORMATS)}, and all")
    return [name for name in FORMATS if name in asked or "all" in asked]


def _find_footage(job: _Job, footage: FootageIndex) -> None:
    for number, video in enumerate(job.scored):
        job.on_progress("footage", number / len(job.scored))
        try:
            job.handoffs.append(load_handoff(video, footage))
        except VideoError as error:
            job.rejected.append(Rejected(video.video, str(error)))


def _finish(out: Path, report: ExportReport) -> None:
    """Remove what an earlier export wrote for the same formats and this one did not, and write `export.json`."""
    known = _earlier_files(out)
    now = {name for names in report.files.values() for name in names}
    kept = {name: files for name, files in known.items() if name not in report.files}
    for name in report.files:
        for old in set(known.get(name, ())) - now - set(itertools.chain(*kept.values())):
            path = out / old
            if not Path(old).is_absolute() and ".." not in Path(old).parts and path.is_file():
                path.unlink()
    merged = {**kept, **{name: list(files) for name, files in report.files.items()}}
    content = {
        "num_videos": report.num_videos,
        "num_highlights": report.num_highlights,
        "files": {name: merged[name] for name in FORMATS if name in merged},
        "rejected": [asdict(row) for row in report.rejected],
        "notes": list(report.notes),
    }
    write_json(out / _INDEX, content)


def _earlier_files(out: Path) -> dict[str, list[str]]:
    try:
        files = read_json(out / _INDEX)["files"]
        return {name: [str(path) for path in paths] for name, paths in files.items() if name in FORMATS}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _table(name: str, write: Callable[[Path, Sequence[Scored]], None]) -> Callable[[_Job], list[Path]]:
    def run(job: _Job) -> list[Path]:
        write(job.out / name, job.scored)
        return [job.out / name]

    return run


def _chapters(job: _Job) -> list[Path]:
    paths = [job.out / "videos" / f"{video.stem}.vtt" for video in job.scored]
    for path, video in zip(paths, job.scored, strict=True):
        write_chapters(path, video)
    return paths


_Timeline = Callable[[Path, str, Sequence[Handoff], Fraction], None]


def _timelines(suffix: str, write: _Timeline) -> Callable[[_Job], list[Path]]:
    def run(job: _Job) -> list[Path]:
        paths = []
        for item in job.handoffs:
            path = job.out / "videos" / f"{item.scored.stem}{suffix}"
            write(path, item.scored.video, [item], item.media.rate)
            paths.append(path)
        rate = common_rate(job.handoffs)
        rates = sorted({item.media.rate for item in job.with_highlights})
        if suffix == ".edl" and len(rates) > 1:
            many = ", ".join(show_rate(rate) for rate in rates)
            _note(job, f"no highlights.edl: an EDL counts in one rate, these videos in {many}; take videos/*.edl")
            return paths
        path = job.out / f"highlights{suffix}"
        write(path, "herdlight highlights", job.handoffs, rate)
        _note(job, rate_notes([], rate)[0])
        if others := sum(bool(item.media.rate_note) for item in job.handoffs):
            _note(
                job, f"{others} videos have a rate that no timeline counts in, or a variable one; their files say which"
            )
        return [*paths, path]

    return run


def _losslesscut(job: _Job) -> list[Path]:
    paths = [job.out / "videos" / f"{item.scored.stem}-proj.llc" for item in job.handoffs]
    for path, item in zip(paths, job.handoffs, strict=True):
        write_losslesscut(path, item)
    return paths


def _clips(job: _Job) -> list[Path]:
    wanted = [(item, *pair) for item in job.handoffs for pair in enumerate(item.scored.highlights, 1)]
    for number, (item, index, highlight) in enumerate(wanted):
        job.on_progress("clips", number / len(wanted))
        path = job.out / "clips" / f"{item.scored.stem}.{index:03d}.mp4"
        try:
            job.clips[item.scored.stem, index] = write_clip(path, item, highlight)
        except VideoError as error:
            job.reject(item.scored, f"clip {index}", error)
    copied = sum(clip.mode == "copy" for clip in job.clips.values())
    what = f"{copied} copied, {len(job.clips) - copied} encoded (libx264 crf {CRF}, AAC)" if job.clips else NO_HIGHLIGHT
    _note(job, f"clips: {what}")
    return [clip.path for clip in job.clips.values()]


def _reel(job: _Job) -> list[Path]:
    if not job.with_highlights:
        _note(job, f"no reel: {NO_HIGHLIGHT}")
        return []
    path = job.out / "reel.mp4"
    try:
        reel = write_reel(path, job.with_highlights, common_rate(job.with_highlights))
    except VideoError as error:
        job.rejected.append(Rejected("reel", str(error)))
        return []
    job.reel = path
    job.rejected += reel.rejected
    width, height = reel.size
    note = f"reel: {len(reel.parts)} highlights, {width} x {height} px, {show_rate(reel.rate)} frames/s"
    _note(job, note)
    cues = [(part.start_s, part.end_s, f"{part.video}: {part.highlight.label}") for part in reel.parts]
    write_cues(job.out / "reel.vtt", note, cues)
    return [path, job.out / "reel.vtt"]


def _timeline_pictures(job: _Job) -> list[Path]:
    paths = []
    for video in job.scored:
        name = f"{video.stem}.timeline.png"
        try:
            write_bytes(job.out / "videos" / name, (job.results / name).read_bytes())
            paths.append(job.out / "videos" / name)
        except FileNotFoundError:
            job.rejected.append(Rejected(video.video, f"{name} is not among the results; score it again with --force"))
    return paths


def _contact_sheet(job: _Job) -> list[Path]:
    pictures = job.taken_pictures()
    names = ["contact-sheet.png", *(f"contact-sheet-{n}.png" for n in range(2, num_sheets(len(pictures)) + 1))]
    for sheet, name in enumerate(names):
        write_contact_sheet(job.out / name, pictures, sheet=sheet)
    return [job.out / name for name in names]


def _page(job: _Job) -> list[Path]:
    path = job.out / "highlights.html"
    clips = {key: clip.path for key, clip in job.clips.items()}
    write_page(path, job.scored, job.taken_pictures(), clips, job.reel, job.rejected)
    return [path]


def _camtrap(job: _Job) -> list[Path]:
    folder = job.out / "camtrap-dp"
    recordings = [recording_of(item, job.options.starts, job.options.place) for item in job.handoffs]
    newest = max(path.stat().st_mtime for path in job.results.iterdir())
    created = datetime.fromtimestamp(int(newest), tz=UTC)
    for missing in write_camtrap(folder, job.handoffs, recordings, created):
        _note(job, f"camtrap-dp: not valid yet: {missing}")
    return [folder / name for name in ("deployments.csv", "media.csv", "observations.csv", "datapackage.json")]


def _note(job: _Job, note: str) -> None:
    if note not in job.notes:
        job.notes.append(note)


@dataclass(frozen=True)
class Format:
    """One format of the hand-off.

    about:         what it is, for people
    needs_footage: it cannot be written from the results alone
    write:         writes it for a job and returns its files
    """

    about: str
    needs_footage: bool
    write: Callable[[Any], list[Path]]


FORMATS: Mapping[str, Format] = {
    "json": Format("one table of all highlights", False, _table("highlights.json", write_json_table)),
    "csv": Format("the same for spreadsheets", False, _table("highlights.csv", write_csv_table)),
    "parquet": Format("the same for data frames", False, _table("highlights.parquet", write_parquet_table)),
    "vtt": Format("WebVTT chapters", False, _chapters),
    "edl": Format("CMX 3600 edit decision lists", True, _timelines(".edl", write_edl)),
    "otio": Format("OpenTimelineIO", True, _timelines(".otio", write_otio)),
    "fcp7xml": Format("Final Cut Pro 7 XML, for Premiere and Resolve too", True, _timelines(".xml", write_fcp7)),
    "fcpxml": Format("Final Cut Pro X", True, _timelines(".fcpxml", write_fcpxml)),
    "llc": Format("LosslessCut projects", True, _losslesscut),
    "clips": Format("each highlight as MP4", True, _clips),
    "reel": Format("all highlights in one MP4", True, _reel),
    "timeline": Format("the timeline picture of each video, PNG", False, _timeline_pictures),
    "contact-sheet": Format("thumbnails on a sheet, PNG", True, _contact_sheet),
    "html": Format("a page that needs no network", True, _page),
    "camtrap-dp": Format("Camera Trap Data Package 1.0.2", True, _camtrap),
}
