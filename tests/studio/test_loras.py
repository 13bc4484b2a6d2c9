"""The catalogue of LoRAs on disk, and pictures made with them."""

import json
import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from studio import GenerationRequest, InvalidRequest, NotFound, Settings, Studio
from studio.metadata import FoundLora, read, read_texts
from studio.store import InstalledLora, LoraHeader
from studio.store.lora_header import read_lora_header
from tests.studio.lora_files import KOHYA, Shape, write_lora_file

UNET = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0"


@pytest.fixture
def write(settings: Settings) -> Callable[..., Path]:
    """Write a LoRA into the home's folder."""

    def write(name: str, *arguments: Any, **options: Any) -> Path:
        return write_lora_file(settings.home / "loras" / f"{name}.safetensors", *arguments, **options)

    return write


def own(studio: Studio) -> dict[str, InstalledLora]:
    """Those of the test, without those that come with the project."""
    return {lora.name: lora for lora in studio.loras() if lora.path.is_relative_to(studio.settings.home)}


def test_a_header_tells_what_a_lora_is(studio: Studio, write: Callable[..., Path]) -> None:
    tags = {"10_sea": {"boat": 5, "sea": 9}, "1_more": {"boat": 6}}
    metadata = {
        "ss_output_name": "sea side",
        "ss_tag_frequency": json.dumps(tags),
        "modelspec.trigger_phrase": "by the sea",
        "modelspec.license": "CC0-1.0",
        "sshs_model_hash": "0" * 64,
    }
    path = write("sea", metadata=metadata)
    path.with_name("sea.preview.png").write_bytes(b"")

    lora = own(studio)["sea"]

    assert lora.header is not None
    assert (lora.header.title, lora.header.family, lora.header.kind) == ("sea side", "sd1", "LoRA")
    assert (lora.header.ranks, lora.header.alpha, lora.header.cross_attention_dim) == ((8,), 4.0, 768)
    assert lora.header.layers == {"U-Net": 1, "text encoder": 1}
    assert lora.header.trigger_words == ("by the sea", "boat", "sea")
    assert (lora.header.licence, lora.header.metadata) == ("CC0-1.0", metadata)
    assert lora.preview == path.with_name("sea.preview.png")
    assert lora.known_hashes is None


PEFT = {f"base_model.model.mid_block.attentions.0.proj_in.lora_{side}.weight": (4, 4) for side in "AB"}
DIFFUSERS = {f"unet.mid_block.attentions.0.proj_in.lora_{side}.weight": (4, 4) for side in "AB"}


def test_an_alpha_may_be_noted_in_the_header_or_beside_the_file(studio: Studio, write: Callable[..., Path]) -> None:
    write("header", DIFFUSERS, metadata={"lora_adapter_metadata": '{"unet.r": 4, "unet.lora_alpha": 2}'})
    beside = write("folder/adapter_model", PEFT).with_name("adapter_config.json")

    def alphas() -> dict[str, float | None]:
        return {name: lora.header.alpha if lora.header else -1.0 for name, lora in own(studio).items()}

    assert alphas() == {"header": 2.0, "folder": None}
    for text, alpha in {'{"lora_alpha": 8}': 8.0, '{"lora_alpha": 16.5}': 16.5, "[]": -1.0}.items():
        beside.write_text(text)
        assert alphas()["folder"] == alpha
    assert "has adapter_config.json that is no object" in own(studio)["folder"].problem


@pytest.mark.parametrize("name", ["lora_alpha", "alpha_pattern"])
def test_a_number_beyond_all_bounds_spoils_its_own_file_only(
    name: str, studio: Studio, write: Callable[..., Path]
) -> None:
    number = "1" + 400 * "0"
    noted = number if name == "lora_alpha" else f'{{"to_k": {number}}}'
    write("header", DIFFUSERS, metadata={"lora_adapter_metadata": f'{{"unet.{name}": {noted}}}'})
    write("folder/adapter_model", PEFT).with_name("adapter_config.json").write_text(f'{{"{name}": {noted}}}')
    write("good")

    loras = own(studio)

    assert loras["good"].problem == ""
    assert "has lora_adapter_metadata that notes" in loras["header"].problem
    assert "has adapter_config.json that notes" in loras["folder"].problem


def test_a_tag_of_few_pictures_is_no_trigger_word(studio: Studio, write: Callable[..., Path]) -> None:
    metadata = {
        "ss_tag_frequency": json.dumps({"10_sea": {"boat": 25, "sea": 24, "fog": 90}, "1_more": {"sea": 1}}),
        "ss_dataset_dirs": json.dumps({"10_sea": {"n_repeats": 10, "img_count": 60}, "1_more": {"img_count": 40}}),
    }
    write("known", metadata=metadata)
    write("strange", metadata={**metadata, "ss_dataset_dirs": '{"a": {"img_count": "many"}, "b": 3}'})
    write("rare", metadata={**metadata, "ss_dataset_dirs": '{"a": {"img_count": 1000}}'})

    words = {name: lora.header.trigger_words for name, lora in own(studio).items() if lora.header}

    assert words == {"known": ("fog", "boat", "sea"), "strange": ("fog", "boat", "sea"), "rare": ()}


def test_hashes_are_computed_when_asked_for_and_kept(studio: Studio, write: Callable[..., Path]) -> None:
    import hashlib

    path = write("sea", metadata={"sshs_model_hash": "0" * 64})
    data = path.read_bytes()
    tensors = data[8 + int.from_bytes(data[:8], "little") :]

    lora = studio.lora("sea")

    assert lora.known_hashes is not None
    assert lora.known_hashes.file == hashlib.sha256(data).hexdigest()
    assert lora.sha256 == hashlib.sha256(tensors).hexdigest()
    assert lora.is_claim_true is False
    with Studio(studio.settings) as another:
        assert own(another)["sea"].known_hashes == lora.known_hashes


MADE: list[tuple[str, dict[str, Shape], dict[str, str], tuple[str, str, tuple[int, ...]]]] = [
    ("sdxl by width", {f"{UNET}_attn2_to_k.lora_down.weight": (4, 2048)}, {}, ("sdxl", "LoRA", (4,))),
    ("sd2 by width", {f"{UNET}_attn2_to_v.lora_down.weight": (4, 1024)}, {}, ("sd2", "LoRA", (4,))),
    ("sd2 by claim", {f"{UNET}_ff.lora_down.weight": (4, 8)}, {"ss_v2": "True"}, ("sd2", "LoRA", (4,))),
    ("sdxl by encoder", {"lora_te2_x.lora_down.weight": (4, 8)}, {}, ("sdxl", "LoRA", (4,))),
    ("flux", {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": (4, 8)}, {}, ("flux", "LoRA", (4,))),
    (
        "by architecture",
        {"transformer.x.lora_A.weight": (4, 8)},
        {"modelspec.architecture": "Flux-1-dev/lora"},
        ("flux", "LoRA", (4,)),
    ),
    ("by kohya", {"lora_unet_x.lora_up.weight": (8, 4)}, {"ss_base_model_version": "sdxl_base_v1-0"},
     ("sdxl", "LoRA", ())),
    ("peft", {"unet.a.attn2.to_k.lora_A.default.weight": (2, 768)}, {}, ("sd1", "LoRA", (2,))),
    ("old diffusers", {"unet.a.attn2.processor.to_k_lora.down.weight": (2, 768)}, {}, ("sd1", "LoRA", (2,))),
    ("locon", {"lora_unet_x.lora_down.weight": (4, 8, 3, 3), "lora_unet_y.lora_up.weight": (8, 4)}, {},
     ("", "LoCon", (4,))),
    ("conv 1x1 is no locon", {"lora_unet_x.lora_down.weight": (4, 8, 1, 1)}, {}, ("", "LoRA", (4,))),
    ("loha", {"lora_unet_x.hada_w1_a": (8, 4), "lora_unet_x.hada_w1_b": (4, 8)}, {}, ("", "LoHa", (4,))),
    ("lokr", {"lora_unet_x.lokr_w1": (2, 2), "lora_unet_x.lokr_w2_b": (4, 8)}, {}, ("", "LoKr", (4,))),
    ("dora", {"lora_unet_x.lora_down.weight": (4, 8), "lora_unet_x.dora_scale": (8, 1)}, {}, ("", "DoRA", (4,))),
    ("oft", {"lora_unet_x.oft_blocks": (4, 8, 8)}, {}, ("", "OFT", ())),
    ("ia3", {"lora_unet_x.weight": (8,), "lora_unet_x.on_input": ()}, {}, ("", "IA3", ())),
    ("full", {"lora_unet_x.diff": (8, 8), "lora_unet_x.diff_b": (8,)}, {}, ("", "full difference", ())),
    ("mixed", {"lora_unet_x.lokr_w1": (2, 2), "lora_unet_y.hada_w1_b": (4, 8)}, {},
     ("", "mixed (LoHa, LoKr)", (4,))),
    ("several ranks", {"lora_unet_x.lora_down.weight": (4, 8), "lora_unet_y.lora_down.weight": (16, 8)}, {},
     ("", "LoRA", (4, 16))),
]  # fmt: skip


@pytest.mark.parametrize(("tensors", "metadata", "told"), [case[1:] for case in MADE], ids=[case[0] for case in MADE])
def test_families_and_kinds(
    tensors: dict[str, Shape],
    metadata: dict[str, str],
    told: tuple[str, str, tuple[int, ...]],
    studio: Studio,
    write: Callable[..., Path],
) -> None:
    write("x", tensors, metadata=metadata)

    header = own(studio)["x"].header

    assert header is not None
    assert (header.family, header.kind, header.ranks) == told


def test_layers_are_counted_by_part(studio: Studio, write: Callable[..., Path]) -> None:
    write("x", {**KOHYA, "lora_te2_x.lora_down.weight": (4, 8), "bundle_emb.sea.string_to_param.*": (2, 8)})

    header = own(studio)["x"].header

    assert header is not None
    assert header.layers == {"U-Net": 1, "text encoder": 1, "text encoder 2": 1, "embedding": 1}


SEA = {"bundle_emb.sea.string_to_param.*": (2, 128)}
"""An embedding for the pocket model."""
BRINGING: dict[str, Shape] = {"lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight": (8, 128), **SEA}


def test_embeddings_in_its_file_are_words_while_a_lora_is_applied(studio: Studio, write: Callable[..., Path]) -> None:
    path = write("ship", BRINGING)
    sha256 = own(studio)["ship"].sha256

    with_it, without = (
        studio.generate(prompt, model="pocket", seed=1, num_inference_steps=2, progress=False)[0]
        for prompt in ("a (Sea:1.1) <lora:ship:1>", "a (Sea:1.1)")
    )

    assert with_it.request.embeddings == {"sea": sha256}
    assert without.request.embeddings == {}
    assert read(with_it.path).request.embeddings == {"sea": sha256}
    assert "TI hashes" not in read_texts(with_it.path)["parameters"], "its hash is the LoRA's, which stands there"
    assert studio.verify(with_it.path, progress=False).is_exact
    write("ship", {**BRINGING, "bundle_emb.sea.string_to_param.*": (3, 128)})
    assert "embeddings" in {each.name for each in studio.verify(with_it.path, progress=False).differences}
    assert path.exists()


def test_a_batch_may_mean_different_things_by_a_word(studio: Studio, write: Callable[..., Path]) -> None:
    write("ship", BRINGING, value=1.0)
    write("boat", BRINGING, value=2.0)
    request = studio.request("sea {<lora:ship:1>|<lora:boat:1>|}", model="pocket", seed=1, num_images=12)

    images = studio.generate(request.model_copy(update={"num_inference_steps": 2}), progress=False)

    digests = {name: each.sha256 for name, each in own(studio).items()}
    for image in images:
        assert list(image.request.embeddings.values()) == [digests[lora.name] for lora in image.request.loras]
    assert {lora.name for image in images for lora in image.request.loras} == {"ship", "boat"}


def test_words_in_its_file_count_as_their_tokens(studio: Studio, write: Callable[..., Path]) -> None:
    write("ship", BRINGING)
    vectors = own(studio)["ship"].header.embeddings["sea"].vectors  # type: ignore[union-attr]

    def used(prompt: str) -> int:
        return studio.count_tokens(prompt, model="pocket").used

    word = used("sea") - used("")
    assert vectors != word
    assert used("a Sea <lora:ship:1>") == used("a") + vectors
    assert used("a sea <lora:ship:0>") == used("a sea <lora:gone:1>") == used("a") + word
    for loras in (["ship:0.5"], ["gone", "ship"]):
        assert studio.count_tokens("a sea", model="pocket", loras=loras).used == used("a") + vectors
    assert studio.count_tokens("a sea", model="pocket", loras=["ship:0"]).used == used("a") + word


def test_a_hires_model_of_another_family_is_refused_before_anything_runs(
    studio: Studio, write: Callable[..., Path]
) -> None:
    toy = studio.settings.models_dir / "toy"
    unet = toy / "unet" / "config.json"
    unet.write_text(json.dumps({**json.loads(unet.read_text()), "cross_attention_dim": 768}))
    other = shutil.copytree(toy, toy.with_name("other")) / "unet" / "config.json"
    other.write_text(json.dumps({**json.loads(other.read_text()), "cross_attention_dim": 2048}))
    write("x")
    hires = {"hires_scale": 2.0, "hires_model": "other", "hires_upscaler": "lanczos"}

    for fields in ({"prompt": "a boat <lora:x:1>"}, {"prompt": "a boat", "loras": ["x"]}):
        message = "hires_model other gets the picture's LoRAs too: LoRA x is made for .* and model other"
        with pytest.raises(InvalidRequest, match=message) as refused:
            studio.submit(GenerationRequest.parse({**fields, **hires, "model": "toy"}))
        assert refused.value.field == "hires_model"
    assert studio.jobs() == []


def test_a_bundle_that_cannot_be_used_is_told(studio: Studio, write: Callable[..., Path]) -> None:
    write("ship", BRINGING)
    write_lora_file(studio.settings.embeddings_dir / "sea.safetensors", {"emb_params": (2, 128)})
    with pytest.raises(InvalidRequest, match=r"names embedding 'sea', which is .*sea.* and .*ship.*; rename one, or"):
        studio.generate("sea <lora:ship:1>", model="pocket", progress=False)

    write("wide", {**BRINGING, "bundle_emb.sea.string_to_param.*": (2, 768)})
    with pytest.raises(InvalidRequest, match=r"wide brings embedding 'sea' .* 1.x \(768\), and model"):
        studio.generate("x <lora:wide:1>", model="pocket", progress=False)

    write("odd", {**BRINGING, "bundle_emb.sea.more": (2, 2)})
    write("nameless", {**BRINGING, "bundle_emb..string_to_param.*": (2, 128)})
    problems = {name: lora.problem for name, lora in own(studio).items()}
    assert "brings as 'sea' is no embedding" in problems["odd"]
    assert "an embedding called '', which no prompt can name" in problems["nameless"]


def _with_header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


BROKEN: list[tuple[str, bytes, str]] = [
    ("empty", b"", "its header is cut short or missing"),
    ("renamed pickle", b"\x80\x02}q\x00(X\x0b" + bytes(64), "it is a pickle"),
    ("zip", b"PK\x03\x04" + bytes(64), "it is a zip archive"),
    ("hostile length", (2**62).to_bytes(8, "little") + b"{}", "its header is cut short or missing"),
    ("overlap", b"", "begins at byte 0, where 4 is expected"),
    ("33 MB of header", _with_header(b"{" + b" " * 33 * 2**20 + b"}"), "has a header of 34603010 bytes; at most"),
    (
        "500,000 tensors",
        _with_header(b"{" + b",".join(b'"%d":{}' % number for number in range(500_000)) + b"}"),
        "its header announces 500000 tensors, and 50000 is the most",
    ),
    ("no lora", b"", "is no LoRA: none of its 1 tensors belongs to one"),
]


@pytest.mark.parametrize(("data", "reason"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_bad_file_stands_in_the_list_with_its_reason(
    data: bytes, reason: str, studio: Studio, write: Callable[..., Path]
) -> None:
    write("good")
    path = write("bad", {"model.diffusion_model.x": (2, 2)})
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"a.lora_down.weight": tensor, "b.lora_down.weight": tensor}).encode()
    if "expected" in reason:
        data = len(header).to_bytes(8, "little") + header + bytes(4)
    if "no LoRA" not in reason:
        path.write_bytes(data)

    found = own(studio)

    assert found.keys() == {"good", "bad"}
    assert found["good"].problem == ""
    assert reason in found["bad"].problem
    with pytest.raises(InvalidRequest, match="LoRA bad cannot be used: "):
        studio.submit(studio.request("a boat", loras=["bad"]))


def test_a_cut_file_is_told(studio: Studio, write: Callable[..., Path]) -> None:
    path = write("cut")
    path.write_bytes(path.read_bytes()[:-1])

    assert "it is cut short or padded" in own(studio)["cut"].problem


def test_the_list_follows_the_folder(studio: Studio, write: Callable[..., Path]) -> None:
    assert own(studio) == {}
    path = write("a")
    first = studio.lora("a").sha256

    write("a", value=5.0)
    os.utime(path, ns=(1, 1))
    write("b", {"lora_te2_x.lora_down.weight": (4, 8)})
    changed = own(studio)
    assert changed.keys() == {"a", "b"}
    assert changed["a"].known_hashes is None
    assert changed["a"].sha256 != first
    path.unlink()
    assert own(studio).keys() == {"b"}


def test_only_changed_headers_are_read(
    studio: Studio, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a")
    before = own(studio)["a"].header
    monkeypatch.setattr("studio.store.loras.read_lora_header", lambda path: pytest.fail(f"{path} is read again"))

    assert own(studio)["a"].header is before


def test_headers_are_kept_beyond_the_process_until_a_file_or_the_reading_changes(
    settings: Settings, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("a", metadata={"odd": "\0 ü"})
    write("words", {**KOHYA, "bundle_emb.sea.string_to_param.*": (2, 768)})
    config = write("folder/adapter_model", PEFT).with_name("adapter_config.json")
    config.write_text('{"lora_alpha": 8}')
    read: list[str] = []

    def note(path: Path) -> LoraHeader:
        read.append(path.name)
        return read_lora_header(path)

    def look() -> tuple[dict[str, InstalledLora], list[str]]:
        """List the LoRAs in a new studio, and say which files were read for it."""
        read.clear()
        with Studio(settings) as studio:
            return own(studio), list(read)

    monkeypatch.setattr("studio.store.loras.read_lora_header", note)
    first, of_all = look()
    again, of_none = look()
    write("a", value=1.0)
    os.utime(path, ns=(1, 1))
    config.write_text('{"lora_alpha": 4}')
    os.utime(config, ns=(1, 1))
    changed, of_changed = look()
    (settings.home / "loras" / "words.safetensors").unlink()
    monkeypatch.setattr("studio.store.headers.READING", 0)
    _, of_left = look()

    assert len(of_all) >= 3
    assert (again, of_none) == (first, [])
    assert set(of_changed) == {"a.safetensors", "adapter_model.safetensors"}
    assert changed["folder"].header is not None
    assert changed["folder"].header.alpha == 4.0
    assert len(of_left) == len(of_all) - 1


def test_folders_of_other_programs_are_looked_through(settings: Settings, tmp_path: Path) -> None:
    other = tmp_path / "webui" / "Lora"
    write_lora_file(settings.home / "loras" / "brush.safetensors")
    write_lora_file(other / "style" / "brush.safetensors", value=1.0)
    write_lora_file(other / "style" / "only.SAFETENSORS", value=2.0)
    write_lora_file(other / ".hidden.safetensors")
    write_lora_file(other / "brush.safetensors", value=3.0)
    (other / "loop").symlink_to(other)
    (other / "same.safetensors").symlink_to(settings.home / "loras" / "brush.safetensors")
    with Studio(settings.model_copy(update={"lora_dirs": (other,)})) as studio:
        places = {lora.name: lora.path.relative_to(tmp_path).as_posix() for lora in own(studio).values()}

        assert places == {
            "brush": "loras/brush.safetensors",
            "style/brush": "webui/Lora/style/brush.safetensors",
            "Lora/brush": "webui/Lora/brush.safetensors",
            "only": "webui/Lora/style/only.SAFETENSORS",
        }
        assert studio.lora("style/only").name == "only"


def test_a_file_that_bears_a_programs_name_is_called_as_its_folder(studio: Studio, write: Callable[..., Path]) -> None:
    write("brush/adapter_model")
    write("style/brush/pytorch_lora_weights", value=1.0)
    write("sea/adapter_model", value=2.0)
    write("adapter_model", value=3.0)

    assert own(studio).keys() == {"brush", "style/brush", "sea", "adapter_model"}
    assert studio.lora("style/brush").path.name == "pytorch_lora_weights.safetensors"


def test_names_can_be_written_in_a_tag(studio: Studio, write: Callable[..., Path]) -> None:
    path = write("a=b, c")
    shutil.copy(path, os.fsencode(path.parent) + b"/\xff.safetensors")

    assert own(studio).keys() == {"a_b, c", "�"}
    image = studio.generate("a boat <lora:a_b, c:1>", progress=False)[0]
    assert image.request.loras[0].name == "a_b, c"
    assert 'Lora hashes: "a_b c: ' in read_texts(image.path)["parameters"]


@pytest.mark.parametrize("called", ["sea", "sea side", "SEA", "sea.safetensors"])
def test_a_lora_has_several_names(called: str, studio: Studio, write: Callable[..., Path]) -> None:
    write("sea", metadata={"ss_output_name": "sea side"})

    assert studio.lora(called).name == "sea"


@pytest.mark.parametrize("name", ["../../x", "", "/etc/passwd", "saa"])
def test_what_is_not_there_is_told_with_what_is_near(name: str, studio: Studio, write: Callable[..., Path]) -> None:
    write("sea")

    with pytest.raises(NotFound, match=r"LoRA '.*' is not installed; (there are|did you mean) .*sea"):
        studio.lora(name)


def test_what_is_named_instead_can_be_used_and_what_is_not_named_is_counted(
    settings: Settings, tmp_path: Path, write: Callable[..., Path]
) -> None:
    for number in range(20):
        write(f"sea {number:02}")
    write("another").write_bytes(b"")
    further = tmp_path / "further"

    with Studio(settings.model_copy(update={"lora_dirs": (further,)})) as studio:
        usable = [lora.name for lora in studio.loras() if not lora.problem]
        with pytest.raises(NotFound) as told:
            studio.lora("q")

    assert f"there are {', '.join(usable[:10])} and {len(usable) - 10} more, see `studio loras` (LoRAs live in" in str(
        told.value
    )
    assert str(further) in str(told.value)


def test_some_are_found_by_any_name_and_each_once(studio: Studio, write: Callable[..., Path]) -> None:
    write("a", metadata={"ss_output_name": "last"})
    write("b", metadata={"ss_output_name": "last"})
    write("folder/sea", metadata={"ss_output_name": "sea side"})

    found = studio.loras_named(["Sea Side", "folder/sea", "sea.safetensors", "last", "gone", "a"])

    assert [lora.name for lora in found] == ["sea", "a"]


def test_an_ambiguous_title_is_told(studio: Studio, write: Callable[..., Path]) -> None:
    write("a", metadata={"ss_output_name": "last"})
    write("b", metadata={"ss_output_name": "last"})

    with pytest.raises(NotFound, match="LoRA 'last' is one of a, b; say which"):
        studio.lora("last")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"lora_te2_x.lora_down.weight": (4, 8)},
            "LoRA x is made for Stable Diffusion XL, and model toy is Stable Diffusion 1.x; choose another model",
        ),
        (
            {f"{UNET}_attn2_to_k.lora_down.weight": (4, 128)},
            "LoRA x is made for text of width 128, and model toy reads text of width 768; choose another model",
        ),
    ],
)
def test_another_family_is_refused_before_anything_runs(
    tensors: dict[str, Shape], message: str, studio: Studio, write: Callable[..., Path]
) -> None:
    unet = studio.settings.models_dir / "toy" / "unet" / "config.json"
    unet.write_text(json.dumps({**json.loads(unet.read_text()), "cross_attention_dim": 768}))
    write("x", tensors)

    with pytest.raises(InvalidRequest, match=message):
        studio.generate("a boat", loras=["x"], progress=False)
    assert studio.jobs() == []


def test_each_picture_of_a_batch_gets_its_own_loras_and_says_so(studio: Studio, write: Callable[..., Path]) -> None:
    write("brush")
    write("sea", value=1.0)
    template = "a boat {<lora:brush:0.5>|<lora:sea:1>|}"

    images = studio.generate(template, num_images=12, seed=1, progress=False)

    named = {lora.name for image in images for lora in image.request.loras}
    assert named == {"brush", "sea"}
    assert any(not image.request.loras for image in images)
    for image in images:
        record = read(image.path).request
        tags = "".join(f" <lora:{lora.name}:{lora.weight:g}>" for lora in record.loras)
        assert record == image.request
        assert record.prompt.strip() == "a boat"
        assert read_texts(image.path)["parameters"].split("\n")[0].strip() == f"a boat{tags}"


def test_pictures_of_a_batch_are_made_lora_by_lora(studio: Studio, write: Callable[..., Path]) -> None:
    write("brush")
    write("sea", value=1.0)
    template = {"prompt": "a boat {<lora:brush:1>|<lora:sea:1>}", "num_images": 8, "seed": 1}

    streamed = list(studio.generate([template], progress=False))

    newest_first = [image.request.loras[0].name for image in studio.gallery.page()]
    assert sum(one != next_one for one, next_one in pairwise(newest_first)) == 1, "two LoRAs, one change"
    images = studio.gallery.of_job(streamed[0].job_id)
    assert [image.request.seed for image in images] == list(range(1, 9))
    assert sum(one != next_one for one, next_one in pairwise(image.request.loras for image in images)) > 1
    assert sorted(image.index for image in streamed) == list(range(8)), "each is handed on once"


def test_a_list_is_made_lora_by_lora_tags_included(studio: Studio, write: Callable[..., Path]) -> None:
    write("brush")
    asked = [{"prompt": prompt} for prompt in ("a <lora:brush:1>", "b", "c <lora:brush:1>", "d")]

    assert [image.request.prompt.strip() for image in studio.generate(asked, progress=False)] == ["a", "c", "b", "d"]


def test_a_lora_changes_the_picture_and_its_absence_changes_it_back(studio: Studio, write: Callable[..., Path]) -> None:
    write("brush")

    def paint(prompt: str) -> bytes:
        return studio.generate(prompt, seed=1, progress=False)[0].image.tobytes()

    plain, inked, stronger = paint("a boat"), paint("a boat <lora:brush:0.5>"), paint("a boat <lora:brush:1>")
    assert len({plain, inked, stronger}) == 3
    assert paint("a boat <lora:brush:0>") == plain


def test_a_picture_made_again_is_the_same_although_its_lora_was_renamed(
    studio: Studio, write: Callable[..., Path]
) -> None:
    path = write("brush")
    image = studio.generate("a boat <lora:brush:0.5>", seed=1, progress=False)[0]

    assert studio.verify(image.path, progress=False).differences == ()
    path.rename(path.with_name("tinte.safetensors"))
    assert studio.find_lora("brush", image.request.loras[0].sha256) == FoundLora("tinte", is_exact=True)
    assert [each.name for each in studio.verify(image.path, progress=False).differences] == []


def test_a_finished_picture_goes_by_the_hash_of_its_lora_everywhere(studio: Studio, write: Callable[..., Path]) -> None:
    path = write("brush")
    image = studio.generate("a boat <lora:brush:0.5>", seed=1, progress=False)[0]
    path.rename(path.with_name("tinte.safetensors"))

    assert studio.enlarged(image).loras[0].name == "tinte"
    for read_from in (image, image.path):
        assert studio.read(read_from).request_fields["loras"][0]["name"] == "tinte"
    write("brush", value=1.0)
    assert studio.enlarged(image.path).loras[0].name == "tinte"
    path.with_name("tinte.safetensors").unlink()
    with pytest.raises(InvalidRequest, match="loras: brush is another file than the one that the picture was made"):
        studio.enlarged(image)


def test_of_two_files_with_the_same_tensors_the_one_of_that_name_is_found(
    studio: Studio, write: Callable[..., Path]
) -> None:
    write("brush"), write("copy")
    digest = {name: studio.lora(name).sha256 for name in ("brush", "copy")}["brush"]

    assert studio.find_lora("copy", digest) == FoundLora("copy", is_exact=True)
    assert studio.find_lora("brush", digest) == FoundLora("brush", is_exact=True)


def test_a_changed_lora_is_the_first_difference_and_a_missing_one_is_named(
    studio: Studio, write: Callable[..., Path]
) -> None:
    path = write("brush")
    image = studio.generate("a boat <lora:brush:0.5>", seed=1, progress=False)[0]
    then = image.request.loras[0].sha256[:12]

    write("brush", value=1.0)
    result = studio.verify(image.path, progress=False)
    path.unlink()

    assert not result.is_exact
    first = result.differences[0]
    assert (first.name, first.then) == ("LoRA brush", then)
    assert first.now != then
    with pytest.raises(InvalidRequest, match="LoRA 'brush' is not installed"):
        studio.verify(image.path, progress=False)


def test_a_lora_is_found_by_its_hash_first(studio: Studio, write: Callable[..., Path]) -> None:
    write("brush")
    write("sea", value=1.0)
    hashes = {name: studio.lora(name).hashes for name in ("brush", "sea")}

    assert studio.find_lora("brush", hashes["sea"].tensors[:12]) == FoundLora("sea", is_exact=True)
    assert studio.find_lora("gone", hashes["sea"].file[:10].upper()) == FoundLora("sea", is_exact=True)
    assert studio.find_lora("brush", "0" * 12) == FoundLora("brush", is_exact=False)
    assert studio.find_lora("brush", "") == FoundLora("brush", is_exact=True)
    assert studio.find_lora("gone", "0" * 12) is None


def test_a_lora_that_changes_while_its_job_waits_is_applied_as_it_is(
    studio: Studio, write: Callable[..., Path]
) -> None:
    write("brush")
    job = studio.submit(studio.request("a boat", loras=["brush"]))
    write("brush", value=1.0)

    studio.wait(job.id)

    assert studio.result(job)[0].request.loras[0].sha256 == studio.lora("brush").sha256


def test_a_lora_that_goes_while_its_job_waits_fails_the_job(studio: Studio, write: Callable[..., Path]) -> None:
    path = write("brush")
    job = studio.submit(studio.request("a boat", loras=["brush"]))
    path.unlink()

    assert studio.wait(job.id).error == f"LoRA 'brush' is not installed; there are {_shipped(studio)}"


def _shipped(studio: Studio) -> str:
    names = ", ".join(lora.name for lora in studio.loras()) or "none"
    return f"{names} (LoRAs live in {', '.join(map(str, studio.settings.lora_folders))})"


def test_further_folders_come_from_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "studio.toml").write_text('lora_dirs = ["a", "/b"]')
    assert Settings.load(home=tmp_path).lora_dirs == (tmp_path / "a", Path("/b"))
    monkeypatch.setenv("STUDIO_LORA_DIRS", "/c, /d")
    assert Settings.load(home=tmp_path).lora_folders[:3] == (tmp_path / "loras", Path("/c"), Path("/d"))
    with pytest.raises(InvalidRequest, match="setting lora_dirs: "):
        Settings.load(home=tmp_path, lora_dirs=[3])
