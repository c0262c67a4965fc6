"""Settings: every mistake names the field."""

import contextlib
from dataclasses import dataclass, fields
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


NAMES = st.sampled_from([f.name for f in fields(Oven)])
TEXTS = st.one_of(
    st.text(),
    st.from_regex(r"[+-]?[0-9_]{1,400}(\.[0-9]*)?(e[+-]?[0-9]{1,4})?", fullmatch=True),
    st.from_regex(r"[(\[]?[a-z0-9.]*(,[a-z0-9.]*)*[)\]]?", fullmatch=True),
)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
ODD = st.sampled_from(
    [
        10**400,
        -(10**400),
        Fraction(10**400),
        np.float64("nan"),
        np.int64(1),
        np.bool_(True),
        np.str_("x"),
        object,
    ]
    + [np.array(3), np.arange(3), [np.arange(3)], (np.arange(3), np.arange(3)), [[]], [[[1]]], "\0", "\udcff"]
)
VALUES = st.recursive(PLAIN | ODD, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner), max_leaves=5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text() | st.tuples(NAMES | st.text(), TEXTS).map("=".join), max_size=3))
def test_no_text_ends_in_another_error_than_one_of_a_person(texts):
    with contextlib.suppress(InlierError):
        Oven().replace(**Oven.parse(texts))


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=3))
def test_no_value_ends_in_another_error_than_one_of_a_person(values):
    with contextlib.suppress(InlierError):
        Oven(**values)


@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), 10**5000, Fraction(10**400), np.arange(3), [np.arange(3)]],
    ids=["huge", "low", "thousands of digits", "fraction", "array", "list of arrays"],
)
@pytest.mark.parametrize("name", ["degrees", "minutes", "taps", "filter"])
def test_values_that_once_ended_in_a_traceback(name, value):
    with pytest.raises(InlierError, match=f"setting '{name}'"):
        Oven(**{name: value})


def test_a_setting_that_would_change_nothing_is_refused():
    from inlier import DifferNet, SimpleNet

    with pytest.raises(
        InlierError, match="'epochs' changes nothing where 'steps' is 1600: change that, or set it to none"
    ):
        SimpleNet("light", epochs=3)
    with pytest.raises(InlierError, match="'batch_size' changes nothing where 'patches' is 512"):
        SimpleNet("light", batch_size=4)
    with pytest.raises(InlierError, match="'epochs' changes nothing where 'steps'"):
        DifferNet("light", epochs=3)
    assert SimpleNet("light", epochs=3, steps=None).settings.epochs == 3
    assert SimpleNet("paper", epochs=3).settings.epochs == 3
    assert SimpleNet("light").set_params(seed=1).settings.steps == 1600
