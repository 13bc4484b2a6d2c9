"""What a training takes, foreseen by a child process that has torch, for one that has not."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from studio import InvalidRequest, Settings, Studio


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (128, 128), "red").save(folder / "red.png")
    (folder / "red.txt").write_text("a red house")
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", devices=("cpu",))


@pytest.mark.slow
def test_memory_and_time_are_known_before_the_first_training(settings: Settings, data: Path) -> None:
    with Studio(settings) as studio:
        plan = studio.foresee_training(studio.training_request(data, name="style", steps=30))
        assert studio.jobs() == []

    assert plan.demand is not None
    assert plan.demand.num_parameters > 100_000
    assert plan.demand.predicted_bytes > 2**25
    assert "estimated from the device's speed" in plan.sentence()
    least, most = plan.seconds_range() or (0, 0)
    assert 0 < least < most


@pytest.mark.slow
def test_what_cannot_work_on_the_device_is_refused(settings: Settings, data: Path) -> None:
    with Studio(settings) as studio, pytest.raises(InvalidRequest, match="mixed_precision fp16 needs a graphics") as no:
        studio.foresee_training(studio.training_request(data, name="style", mixed_precision="fp16"))

    assert no.value.field == "mixed_precision"


def test_a_child_that_does_not_start_leaves_memory_unknown(
    settings: Settings, data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Studio(settings) as studio:
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        plan = studio.foresee_training(studio.training_request(data, name="style"))

    assert "memory is predicted when it starts" in plan.sentence()
    assert "cannot be predicted" in caplog.text
