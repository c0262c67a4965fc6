"""Trivial baselines: what brightness or size alone tell of a picture."""

import numpy as np

from inlier import trivial
from inlier.data.datasets.sample import Sample


def test_trivial_cues_are_detectors_and_leaks():
    rng = np.random.default_rng(0)

    def picture(level, contrast, size=(40, 30)):
        return np.clip(level + contrast * rng.normal(size=(*size, 3)), 0, 255).astype(np.uint8)

    train = [picture(120, 10) for _ in range(20)]
    good = [picture(60, 10) for _ in range(10)]  # darker than all others: a leak that misleads
    defects = [picture(120, 30, (40, 60)) for _ in range(10)]
    seen = [trivial.look(Sample(array, "plate", "test", None)) for array in (*train, *good, *defects)]
    values = np.array([of.cues for of in seen])
    found = trivial.baselines(values[:20], values[20:], [False] * 10 + [True] * 10)
    assert found["brightness"].leak == 1 and found["brightness"].detector < 0.2 and found["brightness"].is_suspicious
    assert found["contrast"].detector == found["sharpness"].detector == found["aspect ratio"].detector == 1
    assert found["bytes of the file"] == (None, None) and not found["bytes of the file"].is_suspicious
    np.testing.assert_allclose(values[0, 3:5], [1200, 0.75])
    assert len({of.digest for of in seen}) == 40


def test_sixteen_bits_have_the_cues_of_eight():
    array = np.random.default_rng(0).integers(0, 256, (40, 30), np.uint8)
    one, other = (trivial.look(Sample(a, "plate", "test", None)).cues for a in (array, array.astype(np.uint16) * 257))
    np.testing.assert_allclose(one, other, rtol=1e-5)
