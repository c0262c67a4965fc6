"""Models of older formats stay readable for ever: one committed file of each, and what it said when it was new."""

import json
from pathlib import Path

import numpy as np
import pytest

from inlier import load

FOLDERS = sorted((Path(__file__).parent / "models").iterdir())
MODELS = [path for folder in FOLDERS for path in sorted(folder.glob("*.inlier"))]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_old_model_says_what_it_always_said(path):
    expected = json.loads((path.parent / "expected.json").read_text())[path.stem]
    model = load(path)
    found = list(model.predict(list(np.load(path.parent / "pictures.npy"))))
    for p, (score, p_value, verdict, pixel_threshold, peak) in zip(found, expected, strict=True):
        assert (p.p_value, p.verdict) == (p_value, verdict)
        np.testing.assert_allclose([p.score, p.pixel_threshold, p.map.max()], [score, pixel_threshold, peak], rtol=1e-3)


def test_there_is_a_model_of_every_format():
    from inlier.artifact import FORMAT

    assert [folder.name for folder in FOLDERS] == [f"format{n}" for n in range(1, FORMAT + 1)]
