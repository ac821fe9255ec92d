"""The page: every highlight with its picture, times and score, and its clip where one was written.

Knows the template and the values in it. One file that needs no network: pictures are inside it, clips are played from
the folder beside it, and its own policy forbids everything else. Names are escaped as text and as links.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import jinja2

from models.files import write_text
from tasks.handoff.pictures import Picture, headline, show_span
from tasks.handoff.values import Rejected, Scored, show_model
from tasks.timeline import curve_points, format_time

_CURVE_WIDTH, _CURVE_HEIGHT = 1000, 60


def write_page(
    path: Path,
    videos: Sequence[Scored],
    pictures: Sequence[Picture],
    clips: Mapping[tuple[str, int], Path],
    reel: Path | None,
    rejected: Sequence[Rejected],
) -> None:
    """Write the page to `path`.

    clips: for (stem of the results, index from 1) the clip that was written
    reel:  the film of all highlights, None where none was written
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tasks.handoff", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    by_stem: dict[str, list[Picture]] = {}
    for picture in pictures:
        by_stem.setdefault(picture.scored.stem, []).append(picture)
    content = environment.get_template("page.html.jinja").render(
        headline=headline(pictures),
        reel=None if reel is None else link(path, reel),
        videos=[_video(path, video, by_stem.get(video.stem, []), clips) for video in videos if video.highlights],
        quiet=[(video.video, format_time(video.duration_s), video.note) for video in videos if not video.highlights],
        rejected=rejected,
        curve_width=_CURVE_WIDTH,
        curve_height=_CURVE_HEIGHT,
    )
    write_text(path, content)


def link(page: Path, target: Path) -> str:
    """Return the relative link from `page` to `target` below its folder, every odd character escaped."""
    relative = target.relative_to(page.parent).as_posix()
    return "./" + quote(relative)


def _video(
    page: Path, video: Scored, pictures: Sequence[Picture], clips: Mapping[tuple[str, int], Path]
) -> dict[str, object]:
    return {
        "name": video.video,
        "length": format_time(video.duration_s),
        "threshold": video.threshold,
        "partial": video.partial,
        "model": show_model(video.model),
        "num_highlights": len(video.highlights),
        "curve": _curve(video),
        "threshold_y": round(_CURVE_HEIGHT * (1 - video.threshold), 1),
        "bands": [
            (round(item.start_s / video.duration_s * _CURVE_WIDTH, 1),
             round(max(1.0, item.duration_s / video.duration_s * _CURVE_WIDTH), 1))
            for item in video.highlights
        ],
        "highlights": [
            {
                "index": picture.index,
                "image": picture.data_uri,
                "span": show_span(picture.highlight),
                "score": picture.highlight.score,
                "category": picture.highlight.category,
                "sure": picture.highlight.category_probability,
                "clip": link(page, clip) if (clip := clips.get((video.stem, picture.index))) else None,
            }
            for picture in pictures
        ],
    }  # fmt: skip


def _curve(video: Scored) -> str:
    """Return the points of the score curve for an SVG polyline."""
    x_s, scores = curve_points(video.track, _CURVE_WIDTH)
    points = zip(x_s / video.duration_s * _CURVE_WIDTH, _CURVE_HEIGHT * (1 - scores), strict=True)
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
