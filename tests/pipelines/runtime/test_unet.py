"""The U-Net's own: attention that need not be asked for its signature, and pixels that do not know of it."""

import inspect
from pathlib import Path

import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from pipelines.runtime.loading import ModelCache
from pipelines.runtime.unet import AnnouncedAttention
from studio.store import find_model


def test_what_is_announced_is_diffusers_own_signature() -> None:
    announced, own = AnnouncedAttention().__call__, AttnProcessor2_0().__call__

    assert inspect.signature(announced) == inspect.signature(own)
    assert inspect.signature(announced) is inspect.signature(announced)  # at hand, not worked out anew


def test_every_layer_has_it_and_predicts_the_same_bits(tmp_path: Path) -> None:
    models = ModelCache(torch.device("cpu"), dtype=torch.float32, max_bytes=2**30)
    unet = models.get(find_model("pocket", tmp_path)).unet
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((2, unet.config.in_channels, 16, 16), generator=generator)
    embeds = torch.randn((2, 77, unet.config.cross_attention_dim), generator=generator)

    def predict() -> torch.Tensor:
        with torch.inference_mode():
            prediction: torch.Tensor = unet(latents, 500, encoder_hidden_states=embeds, return_dict=False)[0]
        return prediction

    announced = predict()
    assert all(type(processor) is AnnouncedAttention for processor in unet.attn_processors.values())
    unet.set_attn_processor(AttnProcessor2_0())
    assert torch.equal(predict(), announced)
