"""The registry's model: videos in, by path, by address or as bytes; spans, scores and timing out.

MLflow stores this file itself (models-from-code) and runs it wherever the model is loaded, so nothing is pickled. A
row that cannot be scored answers with its reason in `error` and the others go on. Knows MLflow's interface; scoring
is `tasks.score`'s, fetching `tasks.download`'s, the params `tasks.served_params`'s, and how a row becomes a file
`tasks.served_rows`'s.

    request:  {"dataframe_records": [{"video": "clip.mp4"}, {"video": "https://…/clip.mp4"}, {"content": "AAAA…"}],
               "params": {"threshold": 0.5, "mode": "cascade", "top": 3, "scores": true}}
    answer:   {"predictions": [{"video", "duration_s", "threshold", "error",
               "spans": [{"start_s", "end_s", "score"}], and "category", "category_probability" where it has them,
               "partial", "note", "settings", "looked": below
               "scores": {"time_s": […], "score": […]} or null,
               "timing": {"fetch_s", "decode_s", "encode_s", "wait_s", "total_s", "speed"} or null}]}

Every row has every key, so that the rows of any request make one table:

    partial   why the video was read up to some point alone; "" where it was read to its end, null with an `error`
    note      what was left out of the spans, and where there are none, why; "" for nothing, null with an `error`
    settings  what was asked for, as `settings` in spans.json; {} for a plain request
    looked    what a cascade, or keyframes alone, looked at, as in spans.json; null where every sample was scored, as
              where a video breaks off, and with an `error`

Params that are out of their range are a bad request (HTTP 400) with one line in `error` beside MLflow's own `message`.
A value of another type, "top": "three", MLflow refuses itself before this file sees it, with 400 too. A name that the
signature does not have it drops with a warning in the server's log, and no model can tell: `threshold` and `settings`
show what was understood. Called without MLflow in between, `predict` refuses such a name.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
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
        params:      any of `tasks.served_params.TYPES`; what is missing or None is the model's own, or not asked for
        Raises MlflowException, which the server answers with 400, for params that are out of range.
        """
        from tasks.served_params import request_of

        try:
            request = request_of(params, self._scorer.model.spec)
        except ParamsError as error:
            # The server puts the whole table before `message`; what else is given goes into its answer as it is.
            raise MlflowException.invalid_parameter_value(str(error), error=str(error)) from error
        empty = [None] * len(model_input)
        videos, contents = (model_input.get(name, empty) for name in ("video", "content"))
        return [
            self._scorer.score(video, content, request.settings, with_scores=request.with_scores)
            for video, content in zip(videos, contents, strict=True)
        ]


set_model(HighlightModel())
