"""The request of a training: bounds, fields that go together, and the sentences of refusals."""

from typing import Any

import pytest

from pipelines.spec.errors import InvalidRequest
from pipelines.spec.fields import field_rules
from pipelines.spec.training import DEFAULT_STEPS, OTHER_NAMES, TrainingRequest


def _parse(**fields: Any) -> TrainingRequest:
    return TrainingRequest.parse({"data": "pictures", "name": "style", **fields})


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"rank": 0}, "rank", "rank must be at least 1 and at most 1024, got 0"),
        ({"learning_rate": 0.0}, "learning_rate", "learning_rate must be above 0 and at most 1"),
        ({"resolution": 500}, "resolution", "resolution must be a multiple of 8, got 500; try 496 or 504"),
        ({"name": "../../x"}, "name", r"name must begin with a letter or a digit .* try my-style"),
        ({"name": "a/b"}, "name", "name must begin with a letter"),
        ({"name": "x.safetensors"}, "name", "without its suffix, got 'x.safetensors'; try 'x'"),
        ({"steps": 5, "epochs": 5}, None, "steps 5 and epochs 5 both say how long; give one"),
        ({"keep_tokens": 2}, None, "keep_tokens needs shuffle_captions"),
        ({"text_encoder_learning_rate": 1e-5}, None, "needs train_text_encoder"),
        ({"network_dim": 8}, None, "network_dim is not a field of a request; say rank"),
        ({"kind": "loha"}, "kind", "kind must be 'lora', 'lokr' or 'dora', got 'loha'"),
        ({"learning_rate": float("nan")}, "learning_rate", "learning_rate must be a finite number"),
    ],
)
def test_a_refusal_names_the_field_the_value_and_the_way_out(
    fields: dict[str, Any], field: str | None, sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as caught:
        _parse(**fields)

    assert caught.value.field == field


def test_names_of_other_trainers_lead_to_fields_that_exist() -> None:
    assert set(OTHER_NAMES.values()) <= TrainingRequest.model_fields.keys()
    assert OTHER_NAMES.keys().isdisjoint(TrainingRequest.model_fields)


def test_every_field_has_a_description() -> None:
    assert all(rule["description"] for rule in field_rules(TrainingRequest).values())


@pytest.mark.parametrize(
    ("fields", "steps"),
    [({}, DEFAULT_STEPS), ({"steps": 7}, 7), ({"epochs": 3}, 30), ({"epochs": 3, "gradient_accumulation_steps": 4}, 8)],
)
def test_the_length_is_steps_or_epochs(fields: dict[str, Any], steps: int) -> None:
    assert _parse(**fields).num_steps(batches_per_epoch=10) == steps


def test_a_request_survives_json() -> None:
    request = _parse(validation_prompts=["a", "b"], alpha=3)

    assert TrainingRequest.model_validate_json(request.model_dump_json()) == request
    assert request.effective_alpha == 3
    assert _parse(rank=7).effective_alpha == 7
