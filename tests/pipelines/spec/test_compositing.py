"""Where a soft mask shows the original again."""

from typing import Any

import numpy as np
import pytest

from pipelines.spec.compositing import changed
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from tests.pipelines.spec.conftest import make_model

SIZE = (40, 40)
FLAT = np.zeros((4, *SIZE), np.float32)


def share(distance: float, *, grey: float = 1.0, **fields: Any) -> float:
    """How much of the painted picture shows where every latent is so far from the original."""
    (request,) = resolve(GenerationRequest(mask_mode="soft", **fields), make_model())
    painted = FLAT + np.float32(distance / 2)  # four channels: the distance is twice the difference of each
    mask = changed(request, original=FLAT, painted=painted, repaint=np.full(SIZE, grey, np.float32))
    values = np.asarray(mask) / 255
    assert values.min() == values.max()
    return float(values[0, 0])


@pytest.mark.parametrize("distance", [0.0, 0.1, 0.5, 0.9, 4.0])
@pytest.mark.parametrize("threshold", [0.5, 2.0])
@pytest.mark.parametrize("contrast", [1.0, 2.0, 8.0])
def test_the_share_is_the_eased_odds_of_distance_and_threshold(
    distance: float, threshold: float, contrast: float
) -> None:
    shown = share(distance, soft_difference_threshold=threshold, soft_difference_contrast=contrast)

    kept = 1 / (1 + (distance / threshold) ** contrast)
    expected = 1 - (6 * kept**5 - 15 * kept**4 + 10 * kept**3)
    assert shown == pytest.approx(expected, abs=1 / 255)


@pytest.mark.parametrize(("grey", "shown"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_with_full_influence_the_mask_moves_the_threshold(grey: float, shown: float) -> None:
    assert share(0.5, grey=grey, soft_mask_influence=1.0) == pytest.approx(shown, abs=1 / 255)
    assert share(0.5, grey=grey) == pytest.approx(0.5, abs=1 / 255), "without influence the mask says nothing"


@pytest.mark.parametrize(("distance", "shown"), [(0.0, 0.0), (0.01, 1.0)])
def test_a_threshold_of_zero_shows_whatever_changed(distance: float, shown: float) -> None:
    assert share(distance, soft_difference_threshold=0.0) == shown


def test_the_seam_is_blurred() -> None:
    (request,) = resolve(GenerationRequest(mask_mode="soft"), make_model())
    painted = FLAT.copy()
    painted[..., 20:] = 9

    shown = np.asarray(changed(request, original=FLAT, painted=painted, repaint=np.ones(SIZE, np.float32)))[20]

    assert (shown[:17] == 0).all()
    assert (shown[23:] >= 254).all()
    assert 0 < shown[19] < shown[20] < 254
