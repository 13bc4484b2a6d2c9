"""How captions vary, what min-SNR weighs, and how the learning rate runs."""

from random import Random
from typing import Any

import pytest
import torch

from pipelines.spec.training import TrainingRequest
from pipelines.training.captions import vary
from pipelines.training.objective import min_snr_weights
from pipelines.training.optimization import learning_rate_share


def _request(**fields: Any) -> TrainingRequest:
    return TrainingRequest.parse({"data": "x", "name": "x", **fields})


def test_the_first_parts_stay_and_the_rest_is_mixed() -> None:
    request = _request(shuffle_captions=True, keep_tokens=1)

    seen = {vary("cat, a, b, c", request, Random(seed)) for seed in range(50)}

    assert len(seen) == 6
    assert all(caption is not None and caption.startswith("cat, ") for caption in seen)


def test_a_share_of_captions_is_dropped() -> None:
    dropped = [vary("cat", _request(caption_dropout=0.3), Random(seed)) is None for seed in range(1000)]

    assert 0.25 < sum(dropped) / 1000 < 0.35


@pytest.mark.parametrize(
    ("caption", "seen"),
    [
        ("a cat", "sks, a cat"),
        ("a SKS cat", "a SKS cat"),
        ("a sks-cat", "a sks-cat"),
        ("asks a cat", "sks, asks a cat"),
        ("", "sks"),
    ],
)
def test_the_trigger_word_is_in_every_caption_once(caption: str, seen: str) -> None:
    assert vary(caption, _request(trigger_word="sks"), Random(0)) == seen


@pytest.mark.parametrize(
    ("prediction_type", "weights"),
    [("epsilon", [1.0, 0.5]), ("v_prediction", [2 / 3, 5 / 11]), ("sample", [2.0, 5.0])],
)
def test_min_snr_weighs_as_in_the_paper(prediction_type: str, weights: list[float]) -> None:
    snr = torch.tensor([2.0, 10.0])

    torch.testing.assert_close(min_snr_weights(snr, prediction_type, 5.0), torch.tensor(weights))
    assert min_snr_weights(snr, prediction_type, None).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [("constant", [0.5, 1, 1, 1]), ("linear", [0.5, 1, 0.5, 0.1]), ("cosine", [0.5, 1, 0.5, 0.02447])],
)
def test_the_learning_rate_rises_and_ends_as_the_schedule_says(schedule: str, shares: list[float]) -> None:
    request = _request(lr_schedule=schedule, warmup_steps=2)

    computed = [learning_rate_share(request, step, 12) for step in (0, 2, 7, 11)]

    assert computed == pytest.approx(shares, abs=1e-5)
