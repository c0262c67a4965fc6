"""Old models go: those that nobody uses, that wait for nobody, and that no current row tells of.

There is no lock, and no list of what is to go: what may go is found anew each time, from the store alone. So a run that
is killed has left some, and two runs at once remove the same. A task names its model only once it has been written and
compared, so young ones stay, whoever names them.
"""

import time
from typing import NamedTuple

from inlier.fleet import ledger
from inlier.fleet.contents import MODEL
from inlier.fleet.models import in_use, model_in_use
from inlier.fleet.store import Store
from inlier.fleet.tasks import VERBS

MAKERS = ("train", "calibrate")  # verbs that make models
YOUNG = 24 * 3600.0  # seconds: longer than any task is at work between its model and its row, or clocks differ


class Old(NamedTuple):
    """A model that may go."""

    path: str  # in the store
    bytes: int
    time: float  # when it was written, seconds since 1970


def check_names(store: Store) -> None:
    """Raise InlierError for a damaged row or file of a model in use, before anything is deleted that it may name."""
    in_use(store)
    for verb in VERBS:
        ledger.last(store, verb)


def old_models(store: Store, part: str, keep: int) -> list[Old]:
    """Of a part, the oldest first; but for the newest `keep`, and for all that is young or named."""
    paths = [f"{verb}/{part}/{made}/{MODEL}" for verb in MAKERS for made in store.list(f"{verb}/{part}")]
    named = _named(store, part)  # after they are listed, so that whatever was named meanwhile is known
    found = [Old(path, *seen) for path in paths if path not in named and (seen := store.look(path))]
    newest_first = sorted(found, key=lambda model: -model.time)
    return [model for model in reversed(newest_first[keep:]) if time.time() - model.time > YOUNG]


def _named(store: Store, part: str) -> set[str]:
    """The model in use, and those that the last rows of the part tell of; one that is proposed is among them."""
    rows = (ledger.last_of(store, verb, part) for verb in VERBS)
    metrics = [row["metrics"] for row in rows if row and row["state"] == "done"]
    return {one["model"] for one in metrics if "model" in one} | {str(model_in_use(store, part))}
