"""Every error that herdlight raises on purpose, in one tree.

    HerdlightError
    ├── ParamsError            a value in params.yaml or on the command line is not acceptable (a ValueError too)
    ├── ShapeError             an array has another shape, type or range than the function needs (a ValueError too)
    ├── DataError              the data folder as a whole cannot be used
    │   ├── AnnotationError    data/annotations.json contradicts itself or the footage
    │   ├── VideoError         one video cannot be read; callers turn it into a rejected row
    │   │   └── VideoBreaks    its reading breaks off; what came before is sound
    │   ├── TooManyRejected    more rows were rejected than the params allow
    │   └── ValidationFailed   an expectation on the manifest does not hold
    ├── ModelError             stored weights do not fit what reads them
    │   ├── WeightsUnavailable named weights are not on this machine and cannot be had
    │   └── EngineError        an engine cannot be built, loaded or run
    │       └── EngineNotPossible  there is no such engine of this kind of tower
    ├── MissingExtra           an optional package is not installed
    ├── StageFailed            a DVC stage ended with an error
    ├── GateRefused            the candidate did not clear the gate
    ├── RegistryError          the model registry has not what was asked of it
    └── TrackingUnavailable    the MLflow server does not answer

A message carries the value, the place and the remedy, in one line.
"""


class HerdlightError(Exception):
    """Root of everything herdlight raises on purpose; a door prints it as one line and exits non-zero."""


class ParamsError(HerdlightError, ValueError):
    """A parameter is unknown, malformed or out of its range."""


class ShapeError(HerdlightError, ValueError):
    """An array does not have the shape, type or range that a function's docstring asks for."""


class DataError(HerdlightError):
    """The data folder is missing, empty or contradicts itself."""


class AnnotationError(DataError):
    """An entry of data/annotations.json is malformed or does not fit its video."""


class VideoError(DataError):
    """One video cannot be read. The batch goes on: the caller records a rejected row with this message."""


class VideoBreaks(VideoError):
    """Reading a video breaks off at a second that the message names; what was given before that is sound.

    reached_s: that second of presentation time
    """

    def __init__(self, message: str, reached_s: float) -> None:
        super().__init__(message)
        self.reached_s = reached_s


class TooManyRejected(DataError):
    """The share of rejected rows is above the limit in params.yaml."""


class ValidationFailed(DataError):
    """At least one expectation on the manifest failed; the message names the rows."""


class ModelError(HerdlightError):
    """A stored model is damaged or was made for something else."""


class WeightsUnavailable(ModelError):
    """Pretrained weights were named that are neither on this machine nor within reach."""


class EngineError(ModelError):
    """An inference engine cannot be built, loaded or run on this machine."""


class EngineNotPossible(EngineError):
    """There is no engine of this name for this kind of tower, anywhere."""


class MissingExtra(HerdlightError):
    """An optional package is missing; the message names the extra to install."""


class StageFailed(HerdlightError):
    """A DVC stage ended with an error; the message carries the stage's own last line."""


class GateRefused(HerdlightError):
    """The candidate did not clear the gate; the message carries the failing lines with both numbers."""


class RegistryError(HerdlightError):
    """The model registry lacks a version or alias that was asked for."""


class TrackingUnavailable(HerdlightError):
    """The MLflow tracking server or store cannot be reached."""
