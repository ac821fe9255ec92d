"""One line of the doctor's table, and how a server is asked whether it is there."""

import urllib.error
import urllib.request
from dataclasses import dataclass

_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    name:     what it is
    ok:       whether it is there and works
    detail:   what was found
    remedy:   what to do where it is not ok, "" where it is
    required: whether herdlight needs it to do its main job here
    """

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    required: bool = False


def http_problem(url: str) -> str:
    """Return "" where a GET of `url` succeeds, else why it does not."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S):
            return ""
    except urllib.error.HTTPError as error:
        return f"answers with status {error.code}"
    except (urllib.error.URLError, OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
