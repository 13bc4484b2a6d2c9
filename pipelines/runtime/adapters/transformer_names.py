"""What the layers of transformers are called by those who made them, as LoRA files of kohya, xlabs and others have it.

Their code often holds in one layer what diffusers splits (q, k and v), and FLUX's and SD3's last modulation has its
halves in the other order.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

Names = Mapping[str, str]
"""Name in the file -> diffusers' name, or several for one layer in the file. {} is a number; ~ means swapped halves."""

_QKV = "{0}.to_q {0}.to_k {0}.to_v"
_ADDED_QKV = "{0}.add_q_proj {0}.add_k_proj {0}.add_v_proj"


def _qkv(attention: str, *, added: bool = False) -> str:
    return (_ADDED_QKV if added else _QKV).replace("{0}", attention)


_DOUBLE: Names = {
    "double_blocks.{}.img_attn.qkv": _qkv("transformer_blocks.{}.attn"),
    "double_blocks.{}.txt_attn.qkv": _qkv("transformer_blocks.{}.attn", added=True),
    "double_blocks.{}.img_attn.proj": "transformer_blocks.{}.attn.to_out.0",
    "double_blocks.{}.txt_attn.proj": "transformer_blocks.{}.attn.to_add_out",
}
_FLUX: Names = {
    **_DOUBLE,
    "double_blocks.{}.img_mlp.0": "transformer_blocks.{}.ff.net.0.proj",
    "double_blocks.{}.img_mlp.2": "transformer_blocks.{}.ff.net.2",
    "double_blocks.{}.txt_mlp.0": "transformer_blocks.{}.ff_context.net.0.proj",
    "double_blocks.{}.txt_mlp.2": "transformer_blocks.{}.ff_context.net.2",
    "double_blocks.{}.img_mod.lin": "transformer_blocks.{}.norm1.linear",
    "double_blocks.{}.txt_mod.lin": "transformer_blocks.{}.norm1_context.linear",
    "single_blocks.{}.linear1": f"{_qkv('single_transformer_blocks.{}.attn')} single_transformer_blocks.{{}}.proj_mlp",
    "single_blocks.{}.linear2": "single_transformer_blocks.{}.proj_out",
    "single_blocks.{}.modulation.lin": "single_transformer_blocks.{}.norm.linear",
    # xlabs
    "double_blocks.{}.processor.qkv_lora1": _qkv("transformer_blocks.{}.attn"),
    "double_blocks.{}.processor.qkv_lora2": _qkv("transformer_blocks.{}.attn", added=True),
    "double_blocks.{}.processor.proj_lora1": "transformer_blocks.{}.attn.to_out.0",
    "double_blocks.{}.processor.proj_lora2": "transformer_blocks.{}.attn.to_add_out",
    "single_blocks.{}.processor.qkv_lora": _qkv("single_transformer_blocks.{}.attn"),
    "single_blocks.{}.processor.proj_lora": "single_transformer_blocks.{}.proj_out",
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
}
_FLUX2: Names = {
    **_DOUBLE,
    "double_blocks.{}.img_mlp.0": "transformer_blocks.{}.ff.linear_in",
    "double_blocks.{}.img_mlp.2": "transformer_blocks.{}.ff.linear_out",
    "double_blocks.{}.txt_mlp.0": "transformer_blocks.{}.ff_context.linear_in",
    "double_blocks.{}.txt_mlp.2": "transformer_blocks.{}.ff_context.linear_out",
    "single_blocks.{}.linear1": "single_transformer_blocks.{}.attn.to_qkv_mlp_proj",
    "single_blocks.{}.linear2": "single_transformer_blocks.{}.attn.to_out",
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
    "single_stream_modulation.lin": "single_stream_modulation.linear",
    "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
    "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
}
_SD3: Names = {
    "joint_blocks.{}.x_block.attn.qkv": _qkv("transformer_blocks.{}.attn"),
    "joint_blocks.{}.x_block.attn2.qkv": _qkv("transformer_blocks.{}.attn2"),
    "joint_blocks.{}.context_block.attn.qkv": _qkv("transformer_blocks.{}.attn", added=True),
    "joint_blocks.{}.x_block.attn.proj": "transformer_blocks.{}.attn.to_out.0",
    "joint_blocks.{}.x_block.attn2.proj": "transformer_blocks.{}.attn2.to_out.0",
    "joint_blocks.{}.context_block.attn.proj": "transformer_blocks.{}.attn.to_add_out",
    "joint_blocks.{}.x_block.mlp.fc1": "transformer_blocks.{}.ff.net.0.proj",
    "joint_blocks.{}.x_block.mlp.fc2": "transformer_blocks.{}.ff.net.2",
    "joint_blocks.{}.context_block.mlp.fc1": "transformer_blocks.{}.ff_context.net.0.proj",
    "joint_blocks.{}.context_block.mlp.fc2": "transformer_blocks.{}.ff_context.net.2",
    "joint_blocks.{}.x_block.adaLN_modulation.1": "transformer_blocks.{}.norm1.linear",
    "joint_blocks.{}.context_block.adaLN_modulation.1": "transformer_blocks.{}.norm1_context.linear",
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "~norm_out.linear",
}
_Z_IMAGE: Names = {
    **{
        f"{block}.{{}}.attention.{name}": theirs.replace("@", f"{block}.{{}}.attention")
        for block in ("layers", "noise_refiner", "context_refiner")
        for name, theirs in {"qkv": "@.to_q @.to_k @.to_v", "out": "@.to_out.0"}.items()
    },
    "x_embedder": "all_x_embedder.2-1",
    "final_layer.linear": "all_final_layer.2-1.linear",
    "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
}
_BY_CLASS: Mapping[str, Names] = MappingProxyType(
    {
        "FluxTransformer2DModel": _FLUX,
        "Flux2Transformer2DModel": _FLUX2,
        "SD3Transformer2DModel": _SD3,
        "ZImageTransformer2DModel": _Z_IMAGE,
        "QwenImageTransformer2DModel": {},  # its makers' names are diffusers' own
    }
)
_BLOCKS = ("transformer_blocks", "single_transformer_blocks", "layers", "noise_refiner", "context_refiner")


def original_names(transformer: Any) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Yield names in files, diffusers' names of what one layer there is here, and whether its halves are swapped."""
    for name, theirs in _BY_CLASS.get(type(transformer).__name__, {}).items():
        container = next((each for each in _BLOCKS if theirs.split()[0].startswith(f"{each}.{{}}")), None)
        numbers = [""] if container is None else [str(number) for number in range(len(getattr(transformer, container)))]
        for number in numbers:
            paths = theirs.replace("{}", number).split()
            # SD3's last block has nothing behind its context, and so a modulation like that of the last layer
            ends_context = "context_block.adaLN" in name and number == numbers[-1]
            swapped = paths[0].startswith("~") or ends_context
            yield name.replace("{}", number), tuple(path.removeprefix("~") for path in paths), swapped
