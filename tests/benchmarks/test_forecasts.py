"""What is counted of forecasts and their outcomes."""

from __future__ import annotations

import pandas as pd

from benchmarks.forecasts import forecasts, judged, summary


def test_signs_and_intervals_are_counted() -> None:
    forecast = pd.DataFrame(
        {
            "metric": ["AP", "AP", "AP", "AP50"],
            "forecast_gain": [0.02, 0.02, -0.01, 0.1],
            "forecast_gain_low": [0.01, -0.01, -0.03, 0.05],
            "forecast_gain_high": [0.03, 0.05, 0.01, 0.15],
            "forecast_excludes_zero": [True, False, False, True],
            "outcome_gain": [0.04, 0.01, 0.02, -0.1],
            "outcome_gain_low": [0.025, 0.005, 0.015, -0.12],
            "outcome_gain_high": [0.055, 0.015, 0.025, -0.08],
            "outcome_excludes_zero": [True, True, True, True],
        }
    )
    rows = judged(forecast)
    assert rows["sign_right"].tolist() == [True, True, False, False]
    assert rows["interval_holds"].tolist() == [False, True, False, False]
    assert rows["intervals_meet"].tolist() == [True, True, False, False]
    found = summary(rows).set_index("metric")
    counts = [
        "forecasts",
        "sign_right",
        "interval_holds",
        "intervals_meet",
        "sure",
        "sure_and_right",
    ]
    assert found.loc["AP", counts].tolist() == [3, 2, 1, 2, 1, 1]
    assert found.loc["AP50", counts].tolist() == [1, 0, 0, 0, 1, 0]
    assert abs(found.loc["AP", "mean_error"] - 0.06 / 3) < 1e-12


def test_a_forecast_swaps_what_is_asked_and_compares_with_a_single_head() -> None:
    made = list(forecasts())
    assert len({tuple(each.names.values()) for each in made}) == len(made) == 10
    for each in made:
        assert {each.scores[0], each.boxes[0], each.alone[0]} <= {*each.asked}
        assert each.alone in (each.scores, each.boxes)
        assert each.single[1] == each.alone[1]
