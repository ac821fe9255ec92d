"""What was cut out of an image tower, as a small value: stored beside the weights, enough to build the tower again.

Knows names and numbers; loads nothing. Which structures go is chosen in `models.structured`, the smaller modules are
in `models.encoder.narrow`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.errors import ModelError


@dataclass(frozen=True)
class Surgery:
    """Sizes of what is left of a tower.

    kept:    heads or channels that are left, at least 1, by the path of their module in the tower:
             `transformer.resblocks.3.attn` (heads), `transformer.resblocks.3.mlp` (channels),
             `layer4.0.conv1` and `layer4.0.conv2` (channels), `attnpool` (heads)
    removed: paths of whole blocks that are gone; their places stay (of a bottleneck its shortcut), so that all other
             paths stay too
    """

    kept: Mapping[str, int] = field(default_factory=dict)
    removed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for path, size in self.kept.items():
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ModelError(
                    f"surgery: {path} keeps {size!r}, must be a whole number from 1; prune the model again"
                )
        if repeated := sorted(path for path in set(self.removed) if self.removed.count(path) > 1):
            raise ModelError(f"surgery: {repeated[0]} is removed twice; prune the model again")

    def after(self, earlier: "Surgery | None") -> "Surgery":
        """Return this surgery and an `earlier` one of the same tower as one."""
        if earlier is None:
            return self
        removed = (*earlier.removed, *(path for path in self.removed if path not in earlier.removed))
        kept = {**earlier.kept, **self.kept}
        gone = tuple(f"{path}." for path in removed)
        return Surgery({path: size for path, size in sorted(kept.items()) if not path.startswith(gone)}, removed)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {"kept": dict(self.kept), "removed": list(self.removed)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Surgery":
        """Return the value that `to_json` wrote. Raises ModelError where it is another one."""
        try:
            return Surgery(dict(value["kept"]), tuple(value["removed"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"surgery: {value!r} is not one ({error}); prune the model again") from None
