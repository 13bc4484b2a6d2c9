"""Trainings of tiny models, end to end: what comes out, resuming, stopping, and what is refused."""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from pipelines.runtime.guards import NotFinite, Stage
from pipelines.runtime.loading import ModelCache
from pipelines.spec.errors import InvalidRequest, NotANumber
from pipelines.spec.model import Model
from pipelines.spec.resuming import CHECKPOINT_NAME
from pipelines.spec.trainer import TrainingStep
from pipelines.spec.training import TrainingRequest
from pipelines.training.trainer import LoraTrainer
from tests.pipelines.training.conftest import Train

TIMES = {"ss_session_id", "ss_training_started_at", "ss_training_finished_at", "modelspec.date"}


class Killed(Exception):
    """Stands for a power cut."""


def _contents(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return header and tensor bytes of a file, times left out."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = {key: text for key, text in header["__metadata__"].items() if key not in TIMES}
    return header, data[8 + length :]


VARIETY: dict[str, Any] = {
    "batch_size": 2,
    "flip": True,
    "caption_dropout": 0.3,
    "shuffle_captions": True,
    "keep_tokens": 1,
    "trigger_word": "sks",
    "min_snr_gamma": 5.0,
    "noise_offset": 0.05,
    "ema_decay": 0.9,
    "gradient_accumulation_steps": 2,
    "warmup_steps": 2,
    "train_conv": True,
    "train_text_encoder": True,
    "learning_rate": 1e-2,
}


@pytest.mark.parametrize("kind", ["lora", "lokr", "dora"])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(train: Train, kind: str) -> None:
    whole = train(place="whole", steps=6, kind=kind, save_every=3, **VARIETY)

    def kill(step: TrainingStep) -> None:
        if step.step == 5:
            raise Killed

    with pytest.raises(Killed):
        train(place="cut", steps=6, kind=kind, save_every=3, on_step=kill, **VARIETY)
    seen: list[int] = []
    resumed = train(
        place="cut",
        steps=6,
        kind=kind,
        save_every=3,
        resume=True,
        on_step=lambda s: seen.append(s.step),
        **VARIETY,
    )

    assert list(dict.fromkeys(seen)) == [3, 4, 5, 6]
    assert _contents(resumed.path) == _contents(whole.path)
    steps = [row.split(",")[0] for row in (resumed.folder / "loss.csv").read_text().splitlines()[1:]]
    assert steps == ["1", "2", "3", "4", "5", "6"]


def test_a_validation_picture_is_told_and_painting_can_be_stopped(train: Train) -> None:
    told: list[TrainingStep] = []

    lora = train(steps=4, validation_every=2, on_step=told.append, stop_at=2)

    assert lora.steps == 2  # stopped before the picture of step 2 was finished
    assert not list(lora.folder.glob("step-*.png"))
    lora = train(place="b", steps=3, validation_every=2, on_step=told.append)
    assert told[-1].picture == lora.folder / "step-000003.png"


def test_what_is_painted_is_told_with_its_number(train: Train) -> None:
    told: list[TrainingStep] = []

    train(steps=2, validation_every=1, validation_prompts=("a house", "a tree"), on_step=told.append)

    painting = list(dict.fromkeys((step.step, step.note) for step in told if step.note))
    assert painting[:4] == [(step, f"painting pictures ({number} of 2)") for step in (1, 2) for number in (1, 2)]
    assert painting[4:] == [(2, f"painting strengths ({number} of 12)") for number in range(1, 13)]
    assert {step.eta for step in told if step.note} == {None}


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (torch.OutOfMemoryError("injected"), "out of memory"),
        (NotFinite(Stage.VAE), "the model produced NaN (vae)"),
    ],
)
@pytest.mark.parametrize(
    ("painting", "what"),
    [
        ("painting pictures", "the pictures after step 4 could not be painted"),
        ("painting strengths", "strengths.png could not be painted"),
    ],
)
def test_no_training_fails_for_its_pictures(
    train: Train, painting: str, what: str, trouble: Exception, reason: str
) -> None:
    def on_step(step: TrainingStep) -> None:
        if step.note.startswith(painting):
            raise trouble

    lora = train(steps=4, validation_every=2, on_step=on_step)

    assert lora.is_complete
    assert lora.note == f"{what}: {reason}"
    assert _contents(lora.path) == _contents(train(place="b", steps=4, validation_every=2).path)


def test_another_seed_gives_another_lora(train: Train) -> None:
    assert _contents(train(seed=1).path)[1] != _contents(train(seed=2, place="b").path)[1]


def test_a_stopped_training_keeps_what_it_has_and_can_go_on(train: Train) -> None:
    whole = train(place="whole", steps=4)

    stopped = train(place="cut", steps=4, stop_at=2)
    tensors = load_file(stopped.path)
    resumed = train(place="cut", steps=4, resume=True)

    assert not stopped.is_complete
    assert stopped.steps == 2
    assert any(tensor.any() for name, tensor in tensors.items() if name.endswith("lora_up.weight"))
    assert resumed.is_complete
    assert _contents(resumed.path) == _contents(whole.path)


def test_training_lowers_the_loss(train: Train, tmp_path: Path) -> None:
    train(steps=60, learning_rate=1e-2, rank=8, train_conv=True, lr_schedule="constant")

    losses = [float(row.split(",")[1]) for row in (tmp_path / "a" / "loss.csv").read_text().splitlines()[1:]]
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])


def test_no_shared_model_is_changed(train: Train, sd1: Model) -> None:
    components = ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=2**30).get(sd1)
    before = {name: tensor.clone() for name, tensor in components.unet.state_dict().items()}
    files = {path: hashlib.sha256(path.read_bytes()).digest() for path in sd1.path.rglob("*.safetensors")}

    train(learning_rate=1e-2)

    after = components.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert files == {path: hashlib.sha256(path.read_bytes()).digest() for path in files}


def test_the_folder_shows_curve_pictures_and_strengths(train: Train) -> None:
    trained = train(steps=4, validation_every=2, validation_prompts=("a house", "a tree"))

    assert sorted(path.name for path in trained.folder.iterdir()) == [
        CHECKPOINT_NAME,
        "loss.csv",
        "loss.png",
        "step-000002.png",
        "step-000004.png",
        "strengths.png",
        "style.safetensors",
    ]
    with Image.open(trained.folder / "strengths.png") as sheet:
        assert sheet.width > 6 * 64


def test_the_sweep_leaves_no_trace_and_ends_in_the_trained_model(train: Train) -> None:
    quiet = train(steps=2, learning_rate=1e-2)
    shown = train(place="b", steps=2, learning_rate=1e-2, validation_every=1)

    assert _contents(quiet.path)[1] == _contents(shown.path)[1]


def test_progress_tells_the_time_that_is_left(train: Train) -> None:
    steps: list[TrainingStep] = []

    train(steps=3, on_step=steps.append)

    assert [step.step for step in steps[:5]] == [0, 1, 2, 3, 3]  # and while it paints what is learnt
    assert steps[0].eta is None
    assert steps[1].eta is not None
    assert steps[1].eta > 0
    assert steps[3].eta == 0
    assert steps[3].loss > 0


def test_sdxl_is_trained_with_both_text_encoders(train: Train, sdxl: Model) -> None:
    trained = train(model=sdxl, train_text_encoder=True, clip_skip=2, batch_size=2, learning_rate=1e-2)

    tensors = load_file(trained.path)
    assert {name.split("_")[1] for name in tensors} == {"unet", "te1", "te2"}
    # A pooled prompt and sizes reach the U-Net; the second encoder learns through them.
    assert any(t.any() for name, t in tensors.items() if name.startswith("lora_te2") and "lora_up" in name)


def test_velocity_is_trained_where_the_model_predicts_it(train: Train, sd1: Model, copy_model: Any) -> None:
    velocity = copy_model(sd1)
    path = velocity.path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))

    trained = train(model=velocity, min_snr_gamma=5.0)

    assert _contents(trained.path)[0]["__metadata__"]["modelspec.prediction_type"] == "v"


@pytest.mark.parametrize("option", [{"gradient_checkpointing": True}, {"gradient_checkpointing": True, "kind": "dora"}])
def test_gradient_checkpointing_changes_nothing_but_memory(train: Train, option: dict[str, Any]) -> None:
    kind = {key: value for key, value in option.items() if key == "kind"}
    plain = load_file(train(train_text_encoder=True, save_dtype="float32", **kind).path)
    checkpointed = load_file(train(place="b", train_text_encoder=True, save_dtype="float32", **option).path)

    for name in plain:
        torch.testing.assert_close(plain[name], checkpointed[name], rtol=1e-3, atol=1e-5)


def test_bfloat16_autocast_trains_on_the_processor(train: Train) -> None:
    assert train(mixed_precision="bf16").is_complete


def test_a_loss_that_is_no_number_is_told(train: Train) -> None:
    with pytest.raises(NotANumber, match=r"the loss of step .* smaller learning_rate"):
        train(steps=60, learning_rate=1.0, max_grad_norm=0.0, weight_decay=0.0, alpha=1024, train_conv=True)


def test_a_checkpoint_of_another_training_is_refused(train: Train) -> None:
    train(steps=2)

    with pytest.raises(InvalidRequest, match=r"learning_rate: the checkpoint .* 0.0001, and 0.01 is asked"):
        train(steps=2, learning_rate=1e-2, resume=True)


def test_resuming_without_a_checkpoint_is_refused(train: Train) -> None:
    with pytest.raises(InvalidRequest, match=r"there is no checkpoint .* choose refuse or overwrite"):
        train(resume=True)


def test_a_folder_that_has_moved_is_the_same_data_and_another_picture_is_not(
    train: Train, data: Path, tmp_path: Path
) -> None:
    train(steps=4, stop_at=2)
    moved = shutil.copytree(data, tmp_path / "moved")

    assert train(steps=4, resume=True, data=str(moved)).is_complete
    Image.new("RGB", (64, 64), "red").save(moved / "0.png")
    with pytest.raises(InvalidRequest, match=r"data: the checkpoint .* was made with another data"):
        train(steps=4, resume=True, data=str(moved))


def test_a_damaged_checkpoint_is_refused(train: Train) -> None:
    path = train().folder / CHECKPOINT_NAME
    path.write_bytes(path.read_bytes()[:-10])

    with pytest.raises(InvalidRequest, match="is damaged"):
        train(resume=True)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"optimizer": "adamw8bit"}, "optimizer adamw8bit needs a CUDA card"),
        ({"mixed_precision": "fp16"}, "mixed_precision fp16 needs a graphics card"),
        ({"clip_skip": 9}, "clip_skip must be at most 3"),
        ({"validation_prompts": ("<lora:x:1>",)}, "names <lora:x>"),
        ({"data": "/nowhere/at/all"}, "data must be a folder of pictures"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_loads(train: Train, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        train(**fields)


def test_a_model_made_for_inpaint_is_refused(train: Train, sd1_inpaint: Model) -> None:
    with pytest.raises(InvalidRequest, match="is made for inpaint"):
        train(model=sd1_inpaint)


def test_the_plan_counts_and_predicts(sd1: Model, data: Path) -> None:
    fields = {"data": str(data), "name": "style", "rank": 4, "epochs": 3, "batch_size": 2}
    trainer = LoraTrainer(device="cpu")

    plan = trainer.plan(TrainingRequest.parse(fields), sd1)
    larger = trainer.plan(TrainingRequest.parse({**fields, "batch_size": 64}), sd1)
    thrifty = trainer.plan(TrainingRequest.parse({**fields, "batch_size": 64, "gradient_checkpointing": True}), sd1)

    assert (plan.num_pictures, plan.batches_per_epoch, plan.num_steps) == (5, 3, 9)
    assert sum(count for *_, count in plan.buckets) == 5
    demands = [each.demand for each in (plan, larger, thrifty) if each.demand]
    usual, most, less = (demand.predicted_bytes for demand in demands)
    assert demands[0].num_parameters > 0
    assert less < most
    assert most > 4 * usual
    assert "5 pictures" in plan.sentence()


def test_the_plan_counts_what_is_trained_in_the_text_encoders_too(train: Train, sd1: Model, data: Path) -> None:
    fields = {"rank": 4, "train_text_encoder": True, "kind": "dora", "train_conv": True}
    plan = LoraTrainer(device="cpu").plan(TrainingRequest.parse({"data": str(data), "name": "x", **fields}), sd1)
    tensors = load_file(train(**fields).path)

    assert plan.demand is not None
    trained = sum(tensor.numel() for name, tensor in tensors.items() if not name.endswith(".alpha"))
    assert plan.demand.num_parameters == trained


def test_a_training_that_cannot_fit_is_refused_with_a_way_out(sd1: Model, data: Path, monkeypatch: Any) -> None:
    trainer = LoraTrainer(device="cpu")
    request = TrainingRequest.parse(
        {"data": str(data), "name": "style", "batch_size": 256, "resolution": 2048, "aspect_buckets": False}
    )

    with pytest.raises(InvalidRequest, match=r"batch_size 256 at 2048×2048 needs about .* gradient_checkpointing"):
        trainer.plan(request, sd1)


def test_the_way_out_leads_to_what_needs_most(sd1: Model, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = SimpleNamespace(total=2**20, available=2**20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    fields = {"rank": 1, "gradient_checkpointing": True, "resolution": 512}

    with pytest.raises(InvalidRequest, match=r"encoding a picture at 512×512 needs about .* take a smaller resolution"):
        LoraTrainer(device="cpu").plan(TrainingRequest.parse({"data": str(data), "name": "style", **fields}), sd1)
