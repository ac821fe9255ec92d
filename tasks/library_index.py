"""The table over a ledger: one row for each entry, with every place where its content is.

    index.parquet   for programs: one row for each entry; `settings` is JSON, {} for a plain run
    index.json      the same for people and scripts, with the settings of rows that are no plain run's alone, and what
                    could not be read in the latest run

Both are derived: they are made anew from the ledger at the end of every run, and may be deleted. Knows those two files;
knows nothing of scoring.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.files import read_json
from tasks.footage import printable
from tasks.ledger import Ledger
from tasks.library_listing import Listing, UnreadablePlace

INDEX_JSON, INDEX_PARQUET = "index.json", "index.parquet"
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "video", "status", "reason", "model", "content_sha256", "results")),
        ("num_bytes", pa.int64()),
        ("duration_s", pa.float64()),
        ("num_spans", pa.int64()),
        ("highlight_s", pa.float64()),
        ("places", pa.list_(pa.string())),
        ("settings", pa.string()),
    ]
)


def build_index(ledger: Ledger) -> list[dict[str, Any]]:
    """Return the rows, sorted by name of the video, then key; `results` is relative to the ledger's folder."""
    places: Mapping[str, list[str]] = defaultdict(list)
    for record in ledger.places():
        places[record.content_sha256].append(printable(record.path))
    rows = []
    for entry in ledger.entries():
        folder = ledger.entry_folder(entry.key).relative_to(ledger.folder).as_posix()
        asked = entry.recipe.asked
        rows.append(
            {
                "key": entry.key,
                "video": entry.video,
                "status": entry.status,
                "reason": entry.reason,
                "model": entry.model,
                "content_sha256": entry.content_sha256,
                "results": f"{folder}/{entry.output}" if entry.output else "",
                "num_bytes": entry.num_bytes,
                "duration_s": entry.duration_s,
                "num_spans": entry.num_spans,
                "highlight_s": entry.highlight_s,
                "places": places[entry.content_sha256],
                **({"settings": asked} if asked else {}),
            }
        )
    return sorted(rows, key=lambda row: (row["video"], row["key"]))


def write_index(ledger: Ledger, unreadable: Sequence[UnreadablePlace]) -> list[dict[str, Any]]:
    """Make the index anew and return its rows; files whose content would be the same stay as they are."""
    rows = build_index(ledger)
    content = {
        "videos": rows,
        "unreadable": [{"place": printable(str(item.path)), "reason": item.reason} for item in unreadable],
    }
    if _same(ledger.folder / INDEX_JSON, content) and (ledger.folder / INDEX_PARQUET).is_file():
        return rows
    with ledger.replacing(ledger.folder / INDEX_PARQUET) as temporary:
        texts = [{**row, "settings": json.dumps(row.get("settings", {}), sort_keys=True)} for row in rows]
        pq.write_table(pa.Table.from_pylist(texts, _SCHEMA), temporary)
    with ledger.replacing(ledger.folder / INDEX_JSON) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return rows


def forget_gone(ledger: Ledger, listing: Listing) -> None:
    """Take out the places below the folders of `listing` where no file is any more; entries and results stay."""
    listed = {str(place.path) for place in listing.places}
    for record in ledger.places():
        path = Path(record.path)
        below = any(path.is_relative_to(root) for root in listing.roots)
        if below and record.path not in listed and not path.is_file():
            ledger.drop_place(path)


def _same(path: Path, content: Mapping[str, Any]) -> bool:
    try:
        return bool(read_json(path) == content)
    except (FileNotFoundError, ValueError):
        return False
