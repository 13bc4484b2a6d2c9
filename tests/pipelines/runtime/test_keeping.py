"""What a mask keeps while the picture is denoised, compared with the sums done by hand."""

import math

import numpy as np
import pytest
import torch

from pipelines.runtime.keeping import DifferentialKeep, HardKeep, SoftKeep, interpolate

ORIGINAL, PREDICTED = torch.randn((2, 1, 4, 3, 5), generator=torch.Generator().manual_seed(3)) * 4
GREYS = torch.linspace(0, 1, 15).reshape(1, 1, 3, 5)


def soft(**changes: float) -> SoftKeep:
    return SoftKeep(ORIGINAL, GREYS, **{"schedule_bias": 1.0, "preservation": 0.5, "contrast_boost": 4.0, **changes})


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0, 32.0])
def test_a_blend_has_the_direction_of_the_mean_and_the_power_mean_of_the_lengths(power: float) -> None:
    """Independent: one vector at a time, in Python's floats. 2e-5 is ten times what float32 rounds at a power of 32."""
    blended = interpolate(ORIGINAL, PREDICTED, GREYS, power=power)

    for row, column in np.ndindex(3, 5):
        start, end, vector = (each[0, :, row, column].tolist() for each in (ORIGINAL, PREDICTED, blended))
        share = GREYS[0, 0, row, column].item()
        mean = [(1 - share) * a + share * b for a, b in zip(start, end, strict=True)]
        length = ((1 - share) * math.hypot(*start) ** power + share * math.hypot(*end) ** power) ** (1 / power)
        expected = [each * length / math.hypot(*mean) for each in mean]
        assert vector == pytest.approx(expected, rel=2e-5, abs=2e-5)


def test_a_blend_of_what_cancels_is_finite() -> None:
    assert interpolate(ORIGINAL, -ORIGINAL, torch.full((1, 1, 3, 5), 0.5), power=4.0).isfinite().all()
    assert not interpolate(ORIGINAL * 0, ORIGINAL * 0, GREYS, power=32.0).any()
    assert interpolate(ORIGINAL * 1e4, PREDICTED, GREYS, power=32.0).isfinite().all()


@pytest.mark.parametrize(("sigma", "exponent"), [(14.0, 7.0), (2.0, 1.0), (0.02, 0.01)])
def test_soft_greys_keep_more_of_the_original_the_more_noise_there_is(sigma: float, exponent: float) -> None:
    expected = interpolate(ORIGINAL, PREDICTED, GREYS**exponent, power=4.0)

    torch.testing.assert_close(soft().apply(PREDICTED, sigma=sigma, step=1), expected)


def test_schedule_bias_moves_preservation_to_early_steps_and_preservation_holds_on() -> None:
    def distance(keep: SoftKeep, sigma: float) -> float:
        return float((keep.apply(PREDICTED, sigma=sigma, step=1) - ORIGINAL).norm())

    assert distance(soft(schedule_bias=2.0), 10.0) < distance(soft(), 10.0) < distance(soft(schedule_bias=0.5), 10.0)
    assert distance(soft(schedule_bias=2.0), 0.1) > distance(soft(), 0.1) > distance(soft(schedule_bias=0.5), 0.1)
    assert distance(soft(preservation=2.0), 3.0) < distance(soft(), 3.0) < distance(soft(preservation=0.1), 3.0)


@pytest.mark.parametrize("preservation", [0.0, 0.5])
def test_soft_black_is_the_original_and_soft_white_the_prediction(preservation: float) -> None:
    shown = soft(preservation=preservation).apply(PREDICTED, sigma=1e-9, step=1)

    torch.testing.assert_close(shown[..., 0, 0], ORIGINAL[..., 0, 0])
    torch.testing.assert_close(shown[..., 2, 4], PREDICTED[..., 2, 4])


def test_a_soft_blend_is_the_same_alone_and_in_a_batch() -> None:
    batch = torch.cat([PREDICTED, ORIGINAL * 2, PREDICTED + 1])

    together = soft().apply(batch, sigma=1.7, step=1)

    for place in range(3):
        assert torch.equal(together[place : place + 1], soft().apply(batch[place : place + 1], sigma=1.7, step=1))


@pytest.mark.parametrize(
    ("grey", "first_step"), [(1.0, 1), (0.8, 2), (0.79, 3), (0.5, 4), (0.2, 5), (0.19, None), (0.0, None)]
)
def test_a_grey_latent_changes_once_no_more_steps_are_left_than_its_share(grey: float, first_step: int | None) -> None:
    keep = DifferentialKeep(torch.zeros((1, 4, 1, 1)), torch.full((1, 1, 1, 1), grey), num_steps=5)
    new = torch.ones((2, 4, 1, 1))

    changes = [step for step in range(1, 6) if keep.apply(new, sigma=1.0, step=step).all()]

    assert changes == ([] if first_step is None else list(range(first_step, 6)))
    assert bool(keep.finish(new).all()) is (first_step is not None)


def test_a_hard_mask_keeps_bit_for_bit() -> None:
    shown = HardKeep(ORIGINAL, GREYS.round()).apply(PREDICTED, sigma=1.0, step=1)

    assert torch.equal(shown, torch.where(GREYS.round() == 1, PREDICTED, ORIGINAL))
