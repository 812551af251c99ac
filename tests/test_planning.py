"""What a claim costs: worked numbers, statsmodels, and what the command prints."""

import json

import pytest
from scipy.stats import binom
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_effectsize

from robustkit.errors import UsageError
from robustkit.planning import plan_claim, time_model


def test_plan_of_one_percent_has_the_worked_numbers():
    found = plan_claim("1%")
    assert (found["realizations"], found["two_sided"], found["until_decided"]) == (299, 368, 409)
    assert found["flips"][0] == {"flips": 0, "realizations": 299}


def test_planned_flips_are_exact_binomial_tails():
    for row in plan_claim("2%", 0.9)["flips"]:
        k, n = row["flips"], row["realizations"]
        assert binom.cdf(k, n, 0.02) <= 0.1 < binom.cdf(k, n - 1, 0.02)


def test_planned_comparison_is_near_statsmodels():
    for row in plan_claim("5%", power=0.8)["comparison"]:
        effect = proportion_effectsize(row["rate"] + 0.05, row["rate"])  # arcsine scale: another approximation
        there = NormalIndPower().solve_power(effect, power=0.8, alpha=0.05)
        assert row["differ"] == pytest.approx(there, rel=0.1)


def test_limit_near_one_plans_no_impossible_rate():
    assert [row["rate"] for row in plan_claim("60%", power=0.8)["comparison"]] == [0.02, 0.1, 0.3]


@pytest.mark.parametrize("power", [0.3, 1.0])
def test_impossible_power_is_refused(power):
    with pytest.raises(UsageError, match="power"):
        plan_claim("1%", power=power)


def test_command_prints_the_plan_for_people_and_machines(capsys, monkeypatch):
    from robustkit.cli.main import main

    told = []
    for more in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", ["robustkit", "plan", "--max-sar", "1%", "--power", "80%", *more])
        assert main() == 0
        told.append(capsys.readouterr().out)
    assert "SAR <= 1% (95%, one-sided)" in told[0]
    assert "0 flips of 299" in told[0]
    assert json.loads(told[1])["for_true_rate_half"] == 1941


def test_time_of_a_run_is_that_of_its_images():
    pytest.importorskip("robustkit_ct_bodysite")
    told = time_model("ct-bodysite", {}, levels=2, slices=4, n=300)
    assert told["images"] == 2 * 4 * 300
    assert told["seconds"] == pytest.approx(told["seconds_per_image"] * told["images"])
    assert told["seconds_per_image"] > 0
