"""The registry's model: names of video files in, scored spans out.

MLflow stores this file itself (models-from-code) and runs it wherever the model is loaded, so nothing is pickled. A
row that cannot be scored answers with its reason in `error` and the others go on. Knows MLflow's interface; scoring
is `tasks.score`'s.

    request:  {"dataframe_records": [{"video": "clip.mp4"}], "params": {"threshold": 0.5}}
    answer:   {"predictions": [{"video", "duration_s", "threshold", "spans": [{"start_s", "end_s", "score"}], "error"}]}
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from models.errors import HerdlightError, ParamsError


class HighlightModel(PythonModel):
    """A served model behind MLflow's pyfunc interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the served folder that was logged beside this file."""
        from models.served import load_served  # torch, only where a model is loaded

        self._served = load_served(Path(context.artifacts["model"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Return one row for each video that `model_input` names in its column `video`.

        model_input: column `video`: paths on this machine; MLflow makes the table of lists and of JSON
        params:      optional `threshold`, 0 to 1, instead of the model's own
        """
        threshold = (params or {}).get("threshold")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ParamsError(f"threshold {threshold}: must be 0 to 1")
        return [_score(self._served, name, threshold) for name in model_input["video"]]


def _score(served: Any, name: Any, threshold: float | None) -> dict[str, Any]:
    from tasks.score import score_video_file

    row: dict[str, Any] = {"video": name, "duration_s": None, "threshold": None, "spans": [], "error": None}
    if not isinstance(name, str) or not name:
        return {**row, "error": f"video must be the path of a file, got {name!r}"}
    try:
        scored = score_video_file(served, Path(name), threshold=threshold)
    except (HerdlightError, OSError) as error:
        return {**row, "error": str(error)}
    spans = [{"start_s": span.start_s, "end_s": span.end_s, "score": span.score} for span in scored.spans]
    return {**row, "duration_s": scored.track.duration_s, "threshold": scored.threshold, "spans": spans}


set_model(HighlightModel())
