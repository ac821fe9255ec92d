"""The registry's model: videos in, by path, by address or as bytes; spans, scores and timing out.

MLflow stores this file itself (models-from-code) and runs it wherever the model is loaded, so nothing is pickled. A
row that cannot be scored answers with its reason in `error` and the others go on. Knows MLflow's interface; scoring
is `tasks.score`'s, fetching `tasks.download`'s, and how a row becomes a file `tasks.served_rows`'s.

    request:  {"dataframe_records": [{"video": "clip.mp4"}, {"video": "https://…/clip.mp4"}, {"content": "AAAA…"}],
               "params": {"threshold": 0.5, "scores": true}}
    answer:   {"predictions": [{"video", "duration_s", "threshold", "spans": [{"start_s", "end_s", "score"}], "error",
               "scores": {"time_s": […], "score": […]} or null,
               "timing": {"fetch_s", "decode_s", "encode_s", "wait_s", "total_s", "speed"} or null}]}
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from models.errors import ParamsError


class HighlightModel(PythonModel):
    """A served model behind MLflow's pyfunc interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the served folder that was logged beside this file."""
        from models.served import load_served  # torch, only where a model is loaded
        from tasks.download import rules_of_this_process
        from tasks.served_rows import RowScorer

        self._scorer = RowScorer(load_served(Path(context.artifacts["model"])), rules_of_this_process())

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Return one row for each video of `model_input`; MLflow makes the table of lists and of JSON.

        model_input: column `video`: a path on this machine or an address; or column `content`: the bytes of a video,
                     in JSON as base64, where `video` is just its name
        params:      optional `threshold`, 0 to 1, instead of the model's own; `scores`: answer those of all frames too
        """
        wanted = params or {}
        threshold = wanted.get("threshold")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ParamsError(f"threshold {threshold}: must be 0 to 1")
        empty = [None] * len(model_input)
        videos, contents = (model_input.get(name, empty) for name in ("video", "content"))
        return [
            self._scorer.score(video, content, threshold, with_scores=bool(wanted.get("scores", False)))
            for video, content in zip(videos, contents, strict=True)
        ]


set_model(HighlightModel())
