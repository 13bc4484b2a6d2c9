"""Upscale models: tiles without seams, bounded memory, exact sizes; files that are none are refused.

What needs spandrel (the extra `upscale`) is skipped without it; CONTRIBUTING.md says how it is run.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipelines.runtime.pickles import unpickle
from pipelines.runtime.upscaling import UpscaleModel, Upscalers, in_tiles
from pipelines.spec.errors import Cancelled, ModelError, NotANumber

CPU = torch.device("cpu")


def picture(width: int, height: int) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def nearest(scale: int) -> torch.nn.Module:
    """A transposed convolution that repeats each pixel."""
    module = torch.nn.ConvTranspose2d(3, 3, scale, stride=scale, bias=False, groups=3)
    torch.nn.init.ones_(module.weight)
    return module.requires_grad_(False)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("width", "height"), [(64, 64), (65, 64), (64, 200), (150, 97), (301, 70)])
def test_tiles_make_what_the_whole_makes(scale: int, width: int, height: int) -> None:
    pixels = torch.randint(256, (1, 3, height, width), generator=torch.Generator().manual_seed(0)) / 255
    model = nearest(scale)

    tiled = in_tiles(model, pixels, scale=scale, tile=64, overlap=16)

    assert tiled.shape == (1, 3, height * scale, width * scale)
    assert torch.allclose(tiled, model(pixels), atol=1e-6)  # sums of shares round in the last bits of float32
    assert torch.equal((tiled * 255).round(), (model(pixels) * 255).round())


def test_no_tile_is_larger_than_allowed_and_neighbours_overlap() -> None:
    seen: list[tuple[int, int]] = []
    model = nearest(2)

    def look(pixels: torch.Tensor) -> torch.Tensor:
        seen.append((pixels.shape[2], pixels.shape[3]))
        larger: torch.Tensor = model(pixels)
        return larger

    in_tiles(look, torch.zeros(1, 3, 300, 100), scale=2, tile=128, overlap=32)

    assert set(seen) == {(128, 100)}
    assert len(seen) == 3


def test_a_seam_fades_from_one_tile_to_the_next() -> None:
    """A model that paints each of its tiles in one shade: the worst that tiles can do."""
    shades = iter((0.0, 1.0))

    def shade(pixels: torch.Tensor) -> torch.Tensor:
        return torch.full((1, 3, pixels.shape[2] * 2, pixels.shape[3] * 2), next(shades))

    row = in_tiles(shade, torch.zeros(1, 3, 64, 112), scale=2, tile=64, overlap=16)[0, 0, 0]

    assert (row[:96] == 0).all()
    assert (row[128:] == 1).all()
    assert (row.diff() >= 0).all()
    assert row.diff().max() < 2 / 32


# Model files


def esrgan(path: Path, *, change: Callable[[torch.Tensor], torch.Tensor] = lambda old: old) -> Path:
    """Save a tiny ESRGAN (4×) with random weights, in the names of its authors."""
    torch.manual_seed(0)
    width, growth = 8, 32
    shapes: dict[str, tuple[int, int]] = {"conv_first": (3, width)}
    for block in (1, 2, 3):
        for index in range(5):
            last = index == 4
            shapes[f"body.0.rdb{block}.conv{index + 1}"] = (width + index * growth, width if last else growth)
    shapes |= {name: (width, width) for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr")}
    shapes["conv_last"] = (width, 3)
    state = {}
    for name, (inner, outer) in shapes.items():
        state[f"{name}.weight"] = change(torch.randn(outer, inner, 3, 3) * 0.1)
        state[f"{name}.bias"] = torch.rand(outer) * 0.1
    save_file(state, path)
    return path


@pytest.fixture
def spandrel() -> None:
    pytest.importorskip("spandrel")


@pytest.mark.usefixtures("spandrel")
def test_a_model_file_enlarges_to_any_size(tmp_path: Path) -> None:
    model = UpscaleModel(esrgan(tmp_path / "4x.safetensors"), device=CPU)

    assert model.scale == 4
    for width, height in ((96, 64), (384, 256), (400, 264), (1600, 1040)):
        assert model.enlarge(picture(96, 64), width=width, height=height).size == (width, height)


@pytest.mark.usefixtures("spandrel")
@pytest.mark.parametrize("nest", ["params_ema", "params", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_was_a_pickle_enlarges_as_before(nest: str | None, prefix: str, tmp_path: Path) -> None:
    file = esrgan(tmp_path / "4x.safetensors")
    state = {f"{prefix}{name}": tensor for name, tensor in load_file(file).items()}
    torch.save(state if nest is None else {nest: state, "iter": 400_000}, tmp_path / "4x.pth")
    with (tmp_path / "converted.safetensors").open("wb") as converted:
        unpickle(tmp_path / "4x.pth").write(converted)

    models = [UpscaleModel(tmp_path / name, device=CPU) for name in ("4x.safetensors", "converted.safetensors")]

    before, after = (model.enlarge(picture(40, 30), width=160, height=120).tobytes() for model in models)
    assert before == after


@pytest.mark.usefixtures("spandrel")
def test_a_model_file_stops_between_tiles(tmp_path: Path) -> None:
    model = UpscaleModel(esrgan(tmp_path / "4x.safetensors"), device=CPU)
    tiles = iter(range(3))

    def on_tile() -> None:
        if next(tiles) == 2:
            raise Cancelled("stop")

    with pytest.raises(Cancelled):
        model.enlarge(picture(600, 600), width=2400, height=2400, on_tile=on_tile)

    assert list(tiles) == []


@pytest.mark.usefixtures("spandrel")
def test_a_model_file_is_loaded_once_and_gives_the_same_pixels(tmp_path: Path) -> None:
    file = esrgan(tmp_path / "4x.safetensors")
    upscalers = Upscalers(CPU)

    one, other = upscalers.of("4x", file), upscalers.of("4x", file)
    made = [each.enlarge(picture(40, 40), width=160, height=160).tobytes() for each in (one, other)]

    assert one is other
    anew = UpscaleModel(file, device=CPU).enlarge(picture(40, 40), width=160, height=160)
    assert made[0] == made[1] == anew.tobytes()
    assert one.provenance.keys() == {"upscaler_fingerprint", "spandrel"}
    esrgan(file, change=lambda old: old * 2)
    assert upscalers.of("4x", file).provenance != one.provenance


@pytest.mark.usefixtures("spandrel")
def test_tiles_of_a_real_architecture_meet_without_a_seam(tmp_path: Path) -> None:
    """The receptive field of this one is wider than the overlap fades, so the tiles are close, not equal."""
    from spandrel import ModelLoader

    descriptor = ModelLoader(CPU).load_from_file(esrgan(tmp_path / "4x.safetensors"))
    pixels = torch.rand(1, 3, 100, 140, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        tiled = in_tiles(descriptor, pixels, scale=4, tile=64, overlap=32)  # type: ignore[arg-type]
        whole = descriptor(pixels)

    difference = (tiled - whole).abs() * 255
    assert difference.max() < 8  # random weights look further than trained ones
    assert difference.mean() < 0.1


@pytest.mark.usefixtures("spandrel")
def test_a_model_that_makes_nan_is_an_error_in_words(tmp_path: Path) -> None:
    file = esrgan(tmp_path / "4x.safetensors", change=lambda old: old * float("nan"))

    with pytest.raises(NotANumber, match=r"4x\.safetensors produced NaN"):
        UpscaleModel(file, device=CPU).enlarge(picture(16, 16), width=64, height=64)


@pytest.mark.usefixtures("spandrel")
def test_a_file_of_no_known_architecture_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(3)}, tmp_path / "x.safetensors")

    with pytest.raises(ModelError, match=r"x\.safetensors cannot be loaded"):
        UpscaleModel(tmp_path / "x.safetensors", device=CPU)


@pytest.mark.parametrize("name", ["lanczos", "nearest"])
def test_filters_are_pillows(name: str) -> None:
    enlarged = Upscalers(CPU).of(name, None).enlarge(picture(20, 10), width=64, height=32)

    assert enlarged.tobytes() == picture(20, 10).resize((64, 32), Image.Resampling[name.upper()]).tobytes()
