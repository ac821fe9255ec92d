"""Highlights as a Camera Trap Data Package, for people who count animals (https://camtrap-dp.tdwg.org, version 1.0.2).

Knows the tables deployments, media and observations, and what the standard asks of them. Writes only what is true: a
highlight is a stretch that a model finds worth sharing, so its observation is `unclassified` and names no species, and
a video without a highlight has no observation (`blank` would claim that no animal is in it). Where time and place are
not known the cells stay empty, which the standard does not accept: the notes say what to fill in. Times in this
standard are whole seconds, so an event is widened to the seconds that hold it, and the exact span is among its tags.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from models.files import write_json, write_text
from tasks.handoff.values import Handoff, show_model

VERSION = "1.0.2"
_SCHEMAS = f"https://raw.githubusercontent.com/tdwg/camtrap-dp/{VERSION}"
_DEPLOYMENTS = (
    *("deploymentID", "locationID", "locationName", "latitude", "longitude", "coordinateUncertainty"),
    *("deploymentStart", "deploymentEnd", "setupBy", "cameraID", "cameraModel", "cameraDelay", "cameraHeight"),
    *("cameraDepth", "cameraTilt", "cameraHeading", "detectionDistance", "timestampIssues", "baitUse", "featureType"),
    *("habitat", "deploymentGroups", "deploymentTags", "deploymentComments"),
)
_MEDIA = (
    *("mediaID", "deploymentID", "captureMethod", "timestamp", "filePath", "filePublic", "fileName", "fileMediatype"),
    *("exifData", "favorite", "mediaComments"),
)
_OBSERVATIONS = (
    *("observationID", "deploymentID", "mediaID", "eventID", "eventStart", "eventEnd", "observationLevel"),
    *("observationType", "cameraSetupType", "scientificName", "count", "lifeStage", "sex", "behavior", "individualID"),
    *("individualPositionRadius", "individualPositionAngle", "individualSpeed", "bboxX", "bboxY", "bboxWidth"),
    *("bboxHeight", "classificationMethod", "classifiedBy", "classificationTimestamp", "classificationProbability"),
    *("observationTags", "observationComments"),
)
_MEDIATYPES = {"matroska,webm": "video/x-matroska", "avi": "video/x-msvideo", "asf": "video/x-ms-asf"}
_MEDIATYPES |= {"mov,mp4,m4a,3gp,3g2,mj2": "video/mp4", "mpegts": "video/mp2t", "flv": "video/x-flv"}
_BY_SUFFIX = {".mov": "video/quicktime", ".webm": "video/webm"}
_NO_SPECIES = "a stretch that a model finds worth sharing; no species was identified"


@dataclass(frozen=True)
class Recording:
    """When and where a video was recorded.

    start: of the first frame, with its zone; None where it is not known
    told:  a person gave the start; else it is the container's, whose clock and zone nobody has checked
    place: latitude and longitude, degrees; None where it is not known
    """

    start: datetime | None
    told: bool
    place: tuple[float, float] | None


def recording_of(item: Handoff, starts: Mapping[str, datetime], place: tuple[float, float] | None) -> Recording:
    """Return when and where `item` was recorded: as told (by the name of the video), else as its container says."""
    told = starts.get(item.scored.video, starts.get(Path(item.scored.video).name))
    return Recording(told or item.media.created, told is not None, place or item.media.place)


def write_camtrap(
    folder: Path, handoffs: Sequence[Handoff], recordings: Sequence[Recording], created: datetime
) -> list[str]:
    """Write the package into `folder`, `datapackage.json` last, and return what is missing before it is valid.

    recordings: when and where each of `handoffs` was recorded
    created:    when the results were made
    """
    media: list[dict[str, Any]] = []
    observations: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for name, members in _group(handoffs, recordings).items():
        rows.append(_deployment(name, members))
        for item, recording in members:
            number = seen[item.scored.video_id] = seen.get(item.scored.video_id, 0) + 1
            media_id = item.scored.video_id + ("" if number == 1 else f"-copy-{number}")  # one content, several names
            media.append(_media(media_id, name, item, recording))
            observations += _observations(media_id, name, item, recording)
    _write_csv(folder / "deployments.csv", _DEPLOYMENTS, rows)
    _write_csv(folder / "media.csv", _MEDIA, media)
    _write_csv(folder / "observations.csv", _OBSERVATIONS, observations)
    missing = _missing(handoffs, recordings)
    write_json(folder / "datapackage.json", _package(handoffs, recordings, missing, created))
    return missing


Members = list[tuple[Handoff, Recording]]


def _group(handoffs: Sequence[Handoff], recordings: Sequence[Recording]) -> dict[str, Members]:
    """Return the videos by deployment: which camera they are from is not known, so those of one place are together."""
    places = sorted({recording.place for recording in recordings if recording.place is not None})
    groups: dict[str, Members] = {}
    for item, recording in zip(handoffs, recordings, strict=True):
        known = recording.place is not None
        name = f"place-{places.index(recording.place) + 1}" if recording.place is not None and known else "unknown"
        groups.setdefault(name, []).append((item, recording))
    return groups


def _missing(handoffs: Sequence[Handoff], recordings: Sequence[Recording]) -> list[str]:
    lacking_start = [item for item, recording in zip(handoffs, recordings, strict=True) if recording.start is None]
    lacking_place = sum(recording.place is None for recording in recordings)
    missing = [] if handoffs else ["there is no video in it, so it covers no time"]
    if lacking_start:
        first = lacking_start[0].scored.video
        missing.append(
            f"{len(lacking_start)} of {len(handoffs)} videos do not say when they were recorded (first: {first}); give "
            "--start VIDEO=2026-01-31T06:00:00+03:00, or fill in the empty times"
        )
    if lacking_place:
        missing.append(
            f"{lacking_place} of {len(handoffs)} videos do not say where they were recorded; give --place "
            "LATITUDE,LONGITUDE, or fill in latitude and longitude in deployments.csv"
        )
    return missing


def _deployment(name: str, members: Members) -> dict[str, Any]:
    starts = [(item, recording.start) for item, recording in members if recording.start is not None]
    place = members[0][1].place
    unchecked = any(recording.start is not None and not recording.told for _, recording in members)
    comment = "herdlight knows no deployments: these are all videos " + (
        "of which the place is not known" if place is None else "of this place"
    )
    ends = [start + timedelta(seconds=item.scored.duration_s) for item, start in starts]
    return {
        "deploymentID": name,
        "latitude": "" if place is None else place[0],
        "longitude": "" if place is None else place[1],
        "deploymentStart": _time(min((start for _, start in starts), default=None)),
        "deploymentEnd": _time(_ceil(max(ends, default=None))),
        "timestampIssues": "true" if unchecked else "",
        "deploymentComments": comment + ("; times are the files' own, clock and zone not checked" if unchecked else ""),
    }


def _media(media_id: str, deployment: str, item: Handoff, recording: Recording) -> dict[str, Any]:
    scored = item.scored
    suffix = Path(scored.video).suffix.lower()
    container = item.media.info.container
    guess = f"video/x-{re.sub('[^a-z0-9]', '', container.split(',')[0].lower())}"
    path = safe_path(scored.video)
    return {
        "mediaID": media_id,
        "deploymentID": deployment,
        "timestamp": _time(recording.start),
        "filePath": path,
        "filePublic": "false",
        "fileName": Path(scored.video).name,
        "fileMediatype": _BY_SUFFIX.get(suffix) or _MEDIATYPES.get(container) or guess,
        "favorite": "true" if scored.highlights else "",
        "mediaComments": "" if path == scored.video else "filePath differs from the name, which the standard forbids",
    }


def _observations(media_id: str, deployment: str, item: Handoff, recording: Recording) -> Iterable[dict[str, Any]]:
    scored = item.scored
    for index, highlight in enumerate(scored.highlights, 1):
        tags = {
            "highlight": "true",
            "highlightScore": highlight.score,
            "category": highlight.category,
            "categoryProbability": highlight.category_probability,
            "startSeconds": round(highlight.start_s, 3),
            "endSeconds": round(highlight.end_s, 3),
        }
        said = (f"{key}:{_tag(value)}" for key, value in tags.items() if value is not None)
        start = None if recording.start is None else recording.start + timedelta(seconds=highlight.start_s)
        end = None if recording.start is None else recording.start + timedelta(seconds=highlight.end_s)
        yield {
            "observationID": f"{media_id}-{index:03d}",
            "deploymentID": deployment,
            "mediaID": media_id,
            "eventID": f"{media_id}-{index:03d}",
            "eventStart": _time(start),
            "eventEnd": _time(_ceil(end)),
            "observationLevel": "media",
            "observationType": "unclassified",
            "classificationMethod": "machine",
            "classifiedBy": f"herdlight {show_model(scored.model)}",
            "observationTags": " | ".join(said),
            "observationComments": _NO_SPECIES,
        }


def safe_path(name: str) -> str:
    """Return `name` as the standard allows a path: no dot, slash or tilde in front, and no two dots in a row."""
    path = re.sub(r"\.{2,}", "_", name)
    return f"_{path}" if path.startswith((".", "/", "~")) else path


def _tag(value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text.replace("|", "/")


def _time(time: datetime | None) -> str:
    return "" if time is None else time.replace(microsecond=0).isoformat()


def _ceil(time: datetime | None) -> datetime | None:
    return time if time is None or not time.microsecond else time.replace(microsecond=0) + timedelta(seconds=1)


def _package(
    handoffs: Sequence[Handoff], recordings: Sequence[Recording], missing: Sequence[str], created: datetime
) -> dict[str, Any]:
    starts = [recording.start for recording in recordings if recording.start is not None]
    ends = [
        recording.start + timedelta(seconds=math.ceil(item.scored.duration_s))
        for item, recording in zip(handoffs, recordings, strict=True)
        if recording.start is not None
    ]
    known = {"start": min(starts).date().isoformat(), "end": max(ends).date().isoformat()} if starts else {}
    unknowns = (
        "What the standard asks for and herdlight cannot know: samplingDesign, captureMethod and individualAnimals of "
        "the project are placeholders; set them, and the contributors, before you publish."
    )
    return {
        "resources": [
            {
                "name": name,
                "path": f"{name}.csv",
                "profile": "tabular-data-resource",
                "format": "csv",
                "mediatype": "text/csv",
                "encoding": "utf-8",
                "schema": f"{_SCHEMAS}/{name}-table-schema.json",
            }
            for name in ("deployments", "media", "observations")
        ],
        "profile": f"{_SCHEMAS}/camtrap-dp-profile.json",
        "name": "herdlight-highlights",
        "created": created.replace(microsecond=0).isoformat(),
        "title": "Highlights found by herdlight",
        "description": " ".join([f"Observations are highlights: {_NO_SPECIES}.", unknowns, *missing]),
        "contributors": [{"title": "herdlight (software); the people are not known to it", "role": "contributor"}],
        "project": {
            "title": "unknown",
            "samplingDesign": "opportunistic",
            "captureMethod": ["activityDetection"],
            "individualAnimals": False,
            "observationLevel": ["media"],
        },
        "spatial": _spatial(recordings),
        "temporal": known,
        "taxonomic": [],
    }


def _spatial(recordings: Sequence[Recording]) -> dict[str, Any]:
    """Return the places as GeoJSON, in its order of longitude and latitude; without any, a feature of no geometry."""
    places = sorted({recording.place for recording in recordings if recording.place is not None})
    if not places:
        return {"type": "Feature", "geometry": None, "properties": {"comment": "place not known"}}
    return {"type": "MultiPoint", "coordinates": [[longitude, latitude] for latitude, longitude in places]}


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
