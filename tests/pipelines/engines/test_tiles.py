"""Tiled denoising by the engine: equal where nothing is divided, alike in any batch, bounded, seamless, cancellable."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.engines.diffusers_engine import DiffusersEngine
from pipelines.runtime.loading import ModelCache
from pipelines.spec.engine import GeneratedImage, Inputs, Step
from pipelines.spec.errors import Cancelled, LoraError
from pipelines.spec.model import Model
from pipelines.spec.request import GenerationRequest
from pipelines.spec.resolve import resolve
from studio.store import find_model
from tests.pipelines.engines.test_diffusers_engine import pixels
from tests.pipelines.runtime.adapters import lora_files

ID = "0" * 64
TASKS: dict[str, dict[str, Any]] = {
    "text-to-image": {},
    "image-to-image": {"init_image": ID, "strength": 0.6},
    "inpaint": {"init_image": ID, "mask_image": ID, "strength": 1.0},
    "soft inpaint": {"init_image": ID, "mask_image": ID, "mask_mode": "soft"},
    "only masked": {"init_image": ID, "mask_image": ID, "inpaint_area": "only_masked"},
    "outpaint": {"init_image": ID, "outpaint_left": 64},
    "hires": {"width": 64, "height": 64, "hires_width": 128, "hires_height": 64},
    "hires, its picture": {"width": 64, "height": 64, "hires_scale": 2.0, "hires_upscaler": "lanczos"},
}


SHARP = {"mask_blur_x": 0.0, "mask_blur_y": 0.0}


@pytest.fixture(scope="module")
def engine() -> DiffusersEngine:
    return DiffusersEngine(device="cpu")


@pytest.fixture
def inputs(init_image: Image.Image, mask_image: Image.Image) -> dict[str, Image.Image]:
    return {"init_image": init_image, "mask_image": mask_image}


def paint(
    engine: DiffusersEngine, model: Model, inputs: dict[str, Image.Image] | None = None, **fields: Any
) -> list[GeneratedImage]:
    values = {"prompt": "a red house", "seed": 7, "num_inference_steps": 3, "width": 128, "height": 64, **fields}
    given = {name: image for name, image in (inputs or {}).items() if name in fields}
    requests = resolve(GenerationRequest.parse(values), model, input_size=(64, 64) if given else None)
    return list(engine.generate(requests, Inputs(model, **given), lambda step: None))


@pytest.mark.parametrize("task", TASKS)
def test_a_tile_that_covers_the_picture_changes_no_bit(
    engine: DiffusersEngine, sd1: Model, inputs: dict[str, Image.Image], task: str
) -> None:
    (whole,) = paint(engine, sd1, inputs, **TASKS[task])
    (covered,) = paint(engine, sd1, inputs, tile_size=128, **TASKS[task])
    (divided,) = paint(engine, sd1, inputs, tile_size=64, **TASKS[task])

    assert pixels(covered) == pixels(whole)
    assert pixels(divided) != pixels(whole)
    assert covered.provenance == whole.provenance


@pytest.mark.parametrize("task", TASKS)
def test_a_tiled_picture_is_the_same_alone_and_in_a_batch(
    engine: DiffusersEngine, sd1: Model, inputs: dict[str, Image.Image], task: str
) -> None:
    fields = {"prompt": "a [red:blue:0.5] house", "tile_size": 64, "tile_overlap": 32, "scheduler": "euler_a"}

    together = paint(engine, sd1, inputs, num_images=4, **fields, **TASKS[task])

    for index, one in enumerate(together):
        assert pixels(one) == pixels(*paint(engine, sd1, inputs, **{**fields, **TASKS[task], "seed": 7 + index}))


@pytest.mark.parametrize("name", ["sdxl", "sd1_inpaint", "sdxl_inpaint"])
def test_every_kind_of_model_paints_in_tiles(
    engine: DiffusersEngine, name: str, inputs: dict[str, Image.Image], request: pytest.FixtureRequest
) -> None:
    model: Model = request.getfixturevalue(name)
    fields = TASKS["inpaint"] if name.endswith("inpaint") else {}

    (whole,) = paint(engine, model, inputs, **fields)

    assert pixels(*paint(engine, model, inputs, tile_size=128, **fields)) == pixels(whole)
    assert pixels(*paint(engine, model, inputs, tile_size=64, **fields)) != pixels(whole)


def test_what_a_mask_keeps_stays_bit_for_bit(engine: DiffusersEngine, sd1: Model) -> None:
    photo = Image.effect_noise((128, 64), 80).convert("RGB")
    mask = Image.new("L", (128, 64))
    mask.paste(255, (40, 16, 90, 48))  # across the middle of three tiles

    (result,) = paint(engine, sd1, {"init_image": photo, "mask_image": mask}, tile_size=64, **TASKS["inpaint"], **SHARP)

    kept = np.asarray(mask) == 0
    assert (np.asarray(result.image)[kept] == np.asarray(photo)[kept]).all()
    assert (np.asarray(result.image)[~kept] != np.asarray(photo)[~kept]).any()


def test_a_step_of_many_tiles_is_told_again_before_each_and_ends_when_cancelled(
    engine: DiffusersEngine, sd1: Model
) -> None:
    fields = {"prompt": "a red house", "seed": 7, "num_inference_steps": 3, "width": 128, "height": 64}
    requests = resolve(GenerationRequest.parse({**fields, "tile_size": 64, "scheduler": "euler"}), sd1)
    told: list[Step] = []

    def cancel(step: Step) -> None:
        told.append(step)
        if len(told) == 6:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        list(engine.generate(requests, Inputs(sd1), cancel))

    assert [step.step for step in told] == [0, 0, 0, 0, 1, 1]
    assert told[-1].preview is not None


def test_tiles_meet_without_a_seam(engine: DiffusersEngine, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A smooth sky, painted again by the pocket model: where a tile ends, columns differ no more than elsewhere."""
    pocket = find_model("pocket", tmp_path_factory.mktemp("no-other-models"))
    sky = np.linspace((40, 60, 140), (240, 160, 120), 128)[:, None].repeat(256, axis=1)
    photo = {"init_image": Image.fromarray(sky.astype(np.uint8))}

    def jumps(overlap: int) -> tuple[float, float]:
        (result,) = paint(
            engine,
            pocket,
            photo,
            **{"prompt": "", "init_image": ID, "strength": 0.8, "num_inference_steps": 8, "seed": 1},
            **{"width": 256, "height": 128, "tile_size": 128, "tile_overlap": overlap},
        )
        columns = np.abs(np.diff(np.asarray(result.image, dtype=float), axis=1)).mean(axis=(0, 2))
        return float(columns[127]), float(np.quantile(columns, 0.95))

    at_border, elsewhere = jumps(64)
    assert at_border < 2 * elsewhere
    assert jumps(0)[0] > 4 * at_border, "without a fade the seam shows, or this test could not fail"


def test_a_range_of_steps_counts_steps_and_not_tiles(
    engine: DiffusersEngine, sd1: Model, tmp_path_factory: pytest.TempPathFactory
) -> None:
    components = ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=10**9).get(sd1)
    weights = lora_files.random_weights(components, parts=("unet",))
    file = lora_files.write(tmp_path_factory.mktemp("loras") / "a.safetensors", lora_files.kohya(weights))

    def picture(*ranges: tuple[float, float]) -> list[bytes]:
        loras = tuple(lora_files.asked(file).model_copy(update={"start": start, "end": end}) for start, end in ranges)
        fields = {"prompt": "a red house", "seed": 7, "num_inference_steps": 4, "width": 128, "height": 64}
        (request,) = resolve(GenerationRequest.parse({**fields, "tile_size": 64, "scheduler": "euler"}), sd1)
        given = Inputs(sd1, loras={file.sha256: file})
        return [
            pixels(image)
            for image in engine.generate([request.model_copy(update={"loras": loras})], given, lambda _: None)
        ]

    with pytest.raises(LoraError, match=r"of 4 steps none begins from 0\.8 to 1"):  # the last at three quarters
        picture((0.8, 1.0))
    assert picture((0.7, 1.0)) == picture((0.75, 1.0)) != picture()
    assert picture((0.0, 0.2)) == picture((0.0, 0.25)) != picture((0.0, 0.3))
    assert picture((0.0, 1.0)) == picture((0.0, 0.9)) != picture((0.0, 0.7))
