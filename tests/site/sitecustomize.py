"""What other processes of the tests know: the tiny backbone, as soon as they import inlier.features.

Python imports this at every start where the folder is on PYTHONPATH; processes that never see a network (those of Ray,
trackers of resources) must not pay for importing torch.
"""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec


def know_the_tiny_backbone():
    import tiny_backbone  # noqa: F401 (makes itself known)


def die():
    """In place of a model's test, where DIES says so."""
    import inlier.bench.cell as cell

    if os.environ.get("DIES"):
        cell.test = lambda *a: os.kill(os.getpid(), 9)


AFTER = {"inlier.features": know_the_tiny_backbone, "inlier.bench.cell": die}


class After(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        then = AFTER.pop(name, None)
        if then is None:
            return None
        spec = find_spec(name)
        execute = spec.loader.exec_module

        def execute_and_then(module):
            execute(module)
            then()

        spec.loader.exec_module = execute_and_then
        return spec


sys.meta_path.insert(0, After())
