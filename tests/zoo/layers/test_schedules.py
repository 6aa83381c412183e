import math

import pytest

from zoo.layers.schedules import check_schedule, schedule_value


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (3, {0: 3, 10**6: 3}),
        ([0, 10, 100, "linear"], {0: 0, 25: 2.5, 100: 10, 101: 10}),
        ([1.0, 3.0, 100, "cosine"], {0: 1, 25: 2 - math.sqrt(0.5), 50: 2, 100: 3, 900: 3}),
        ([2, -8, 10, "exponential"], {0: 2, 5: -8 + 10 / math.sqrt(10), 10: -7, 30: -7.99}),
        ([1, 0, 1000, "step"], {0: 1, 999: 1, 1000: 0, 5000: 0}),
        ((5.0, 1.0, 4, "linear"), {1: 4}),
        ([0, 4, 10, "quadratic"], {0: 0, 5: 1, 10: 4, 20: 4}),
        # AST-Seg's learning rate: a quadratic warm-up, and a tenth after 90 % of 125,000 steps
        (
            [[0, 4e-5, 5000, "quadratic"], [4e-5, 4e-6, 107500, "step"]],
            {0: 0, 500: 4e-7, 4999: 4e-5 * 0.9998**2, 5000: 4e-5, 112499: 4e-5, 112500: 4e-6, 200000: 4e-6},
        ),
        ([[3, 1, 2, "linear"]], {0: 3, 1: 2, 5: 1}),
    ],
)
def test_values(schedule, values):
    check_schedule("beta", schedule)
    # in any order, again and again: a value depends on the step alone
    for step in [*values, *reversed(values)]:
        value = schedule_value(schedule, step)
        assert isinstance(value, float)
        assert value == pytest.approx(values[step], abs=1e-12)


def test_spair_count_prior_odds():
    # s = 1 / (1 + odds) of the program behind the SPAIR paper, as published curves have it
    odds = [1e6, 0.0125, 1000, "exponential"]
    for step, s in {0: 1e-6, 4000: 0.0099, 5000: 0.091, 6000: 0.497, 7000: 0.899, 8000: 0.978, 9000: 0.9867}.items():
        assert 1 / (1 + schedule_value(odds, step)) == pytest.approx(s, rel=5e-3)


@pytest.mark.parametrize("shape", ["linear", "quadratic", "cosine", "exponential", "step"])
@pytest.mark.parametrize(("start", "end"), [(-1.0, 2.0), (2.0, -1.0)])
def test_monotone_and_between_start_and_end(shape, start, end):
    values = [schedule_value([start, end, 7, shape], step) for step in range(40)]
    assert values[0] == start
    assert values == sorted(values, reverse=start > end)
    assert values[-1] == pytest.approx(end, abs=1e-4)
    assert values[39] != values[0]


@pytest.mark.parametrize(
    "schedule",
    [
        "fast",
        None,
        True,
        {},
        [],
        [0, 1, 10],
        [0, 1, 10, "linear", 2],
        [0, 1, 10, "cubic"],
        [0, 1, 10, None],
        [0, 1, 0, "linear"],
        [0, 1, -5, "cosine"],
        [0, 1, math.nan, "linear"],
        [0, "1", 10, "linear"],
        [0, True, 10, "linear"],
        [[0, 1, 10, "linear"], [1, 2, 0, "linear"]],
        [[0, 1, 10, "linear"], 3],
        [[]],
    ],
)
def test_malformed_raises_with_its_name(schedule):
    with pytest.raises(ValueError, match="beta must be a number or"):
        check_schedule("beta", schedule)


@pytest.mark.parametrize("schedule", [[0, None, 10, "linear"], [0, 1, None, "linear"], [0, 1, 10, ["linear"]]])
def test_malformed_members_raise_with_their_name(schedule):
    with pytest.raises(ValueError, match="beta must be a number or"):
        check_schedule("beta", schedule)


@pytest.mark.parametrize(
    "schedule", [1.5, -0.5, math.nan, [0, 1.5, 10, "linear"], [[0, 1, 10, "linear"], [1, -1, 3, "step"]]]
)
def test_values_out_of_bounds_raise_with_them(schedule):
    with pytest.raises(ValueError, match="beta must be from 0 to 1, got"):
        check_schedule("beta", schedule, (0.0, 1.0))
    check_schedule("beta", [0, 1, 10, "linear"], (0.0, 1.0))
