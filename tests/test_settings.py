"""Settings: every mistake names the field."""

from dataclasses import dataclass

import pytest

from inlier import InlierError
from inlier.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Oven(Settings):
    degrees: float = setting(180.0, "temperature", low=0.0, high=300.0)
    minutes: int | None = setting(None, "time", low=1)
    fan: bool = setting(False, "moving air")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("degrees=200", {"degrees": 200.0}),
        ("degrees = 1e2", {"degrees": 100.0}),
        ("minutes=30", {"minutes": 30}),
        ("minutes=none", {"minutes": None}),
        ("fan=true", {"fan": True}),
        ("taps=4,layer2", {"taps": (4, "layer2")}),
        ("taps=(4, 8)", {"taps": (4, 8)}),
        ("backbone=timm:vit=x", {"backbone": "timm:vit=x"}),
    ],
)
def test_texts_become_values_of_the_fields_type(text, value):
    assert Oven.parse([text]) == value
    assert all(getattr(Oven().replace(**value), k) == v for k, v in value.items())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("degrees=hot", "setting 'degrees': 'hot' is not a number"),
        ("degrees=301", "setting 'degrees': 301.0 is out of range, it must be from 0.0 to 300.0"),
        ("degrees=nan", "out of range"),
        ("minutes=0", "setting 'minutes': 0 is out of range, it must be at least 1"),
        ("minutes=2.5", "setting 'minutes': '2.5' is not a whole number or none"),
        ("fan=maybe", "setting 'fan': 'maybe' is not true or false"),
        ("filter=cubic", "setting 'filter': 'cubic' is not one of bilinear, bicubic, lanczos"),
        ("degree=5", "unknown setting 'degree'. Did you mean 'degrees'"),
        ("taps=", r"setting 'taps': \(\) is not a list"),
        ("fan", "'fan' is not KEY=VALUE"),
    ],
)
def test_every_mistake_names_the_field(text, words):
    with pytest.raises(InlierError, match=words):
        Oven().replace(**Oven.parse([text]))


def test_whole_numbers_serve_as_numbers_and_lists_as_tuples():
    oven = Oven(degrees=200, taps=[4, 8])
    assert oven.degrees == 200.0 and isinstance(oven.degrees, float) and oven.taps == (4, 8)
