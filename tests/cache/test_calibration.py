"""How good belief is, kept honestly: the chance that is tested is the one that was given to what is tested."""

import pytest

from cache.index import CALIBRATION_BINS, Calibration, CalibrationBin
from cache.plan import Strategy


def test_the_deepest_belief_is_tested_by_its_own_chance(driver, saas):
    """Bob's entry is open (0.5), the shared one is sure: that not all was read counts against the 0.5, not the 0.97."""
    driver.call(saas(), 0, Strategy.B)
    lost = driver.plan(saas("bob"), 5, Strategy.B)
    driver.index.begin(driver.scope, lost, 5)
    driver.index.abandon(driver.scope, lost, 5, 6, sent=True)
    planned, usage, learned = driver.call(saas("bob"), 10, Strategy.B)
    assert planned.p_hit > 0.9
    assert (usage.read, planned.full_read_tokens) == (2000, 2500)
    assert (learned.held, learned.p_held) == (False, 0.5)
    calibration = driver.index.calibration(driver.scope)
    assert calibration.bins[5] == CalibrationBin(1, 0.5, 0)
    assert calibration.brier == pytest.approx(0.25)


def test_the_table_adds_up_to_what_was_learnt(driver, saas):
    """Hits and evictions in turn: bins hold every tested chance once, in its tenth; no belief is no test."""
    learned = []
    for step in range(40):
        if step % 5 == 4:
            driver.provider.entries.clear()
        learned.append(driver.call(saas(), 400.0 * (step // 10) + 20.0 * step, Strategy.B)[2])
    tested = [each for each in learned if each.held is not None]
    assert 20 < len(tested) < 40
    bins = [CalibrationBin()] * CALIBRATION_BINS
    for each in tested:
        number = min(int(each.p_held * 10), 9)
        kept = bins[number]
        bins[number] = CalibrationBin(kept.tested + 1, kept.predicted + each.p_held, kept.held + each.held)
    found = driver.index.calibration(driver.scope)
    assert found.bins == tuple(bins)
    assert found.tested == len(tested)
    assert found.held == sum(each.held for each in tested)
    assert found.predicted == pytest.approx(sum(each.p_held for each in tested))
    assert found.brier == pytest.approx(sum((each.p_held - each.held) ** 2 for each in tested))


def test_nothing_tested_is_an_empty_table(driver):
    """A scope nobody has asked about has ten empty tenths, not an error."""
    assert driver.index.calibration(driver.scope) == Calibration()
    assert (Calibration().tested, Calibration().predicted, Calibration().held) == (0, 0, 0)
