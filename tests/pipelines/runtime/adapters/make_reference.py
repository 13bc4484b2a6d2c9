"""Makes lycoris_reference.safetensors: adapters of every kind with their ΔW, computed by LyCORIS's own functions.

Run with lycoris-lora (Apache-2.0) installed, which needs torchvision's torch and so an environment of its own:
`pip install lycoris-lora==4.1.3 einops toml`, then `python tests/pipelines/runtime/adapters/make_reference.py`.
Each case holds the tensors as a file names them, the base weight, and the weight the layer acts with at strength 1
(for BOFT, which is not linear in it, at each of STRENGTHS).
"""

from pathlib import Path

import torch
from lycoris.functional import apply_dora_scale, boft, diag_oft, locon, loha, lokr
from safetensors.torch import save_file
from torch import Tensor

LINEAR, CONV = (12, 20), (8, 6, 3, 3)
RANK, ALPHA = 4, 2.0
STRENGTHS = (1.0, 0.4, -1.5)
GAMMA = ALPHA / RANK
Case = tuple[dict[str, Tensor], Tensor, Tensor]

_generator = torch.Generator().manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_generator) / 3


def lora(shape: tuple[int, ...]) -> Case:
    out, inside, *kernel = shape
    down, up = randn(RANK, inside, *kernel), randn(out, RANK, *[1] * len(kernel))
    base = randn(*shape)
    return {"lora_down.weight": down, "lora_up.weight": up}, base, base + locon.diff_weight(down, up, None, gamma=GAMMA)


def tucker(shape: tuple[int, ...]) -> Case:
    out, inside, *kernel = shape
    down, up, mid = randn(RANK, inside, 1, 1), randn(out, RANK, 1, 1), randn(RANK, RANK, *kernel)
    base = randn(*shape)
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "lora_mid.weight": mid}
    return tensors, base, base + locon.diff_weight(down, up, mid, gamma=GAMMA)


def hadamard(shape: tuple[int, ...]) -> Case:
    out, *rest = shape
    inside = torch.Size(rest).numel()
    factors = [randn(out, RANK), randn(RANK, inside), randn(out, RANK), randn(RANK, inside)]
    tensors = dict(zip(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), factors, strict=True))
    base = randn(*shape)
    change = loha.diff_weight(factors[1], factors[0], factors[3], factors[2], None, None, gamma=GAMMA)
    return tensors, base, base + change.reshape(shape)


def hadamard_tucker(shape: tuple[int, ...]) -> Case:
    out, inside, *kernel = shape
    factors = [randn(RANK, out), randn(RANK, inside), randn(RANK, out), randn(RANK, inside)]
    cores = [randn(RANK, RANK, *kernel), randn(RANK, RANK, *kernel)]
    tensors = dict(zip(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"), factors, strict=True))
    base = randn(*shape)
    change = loha.diff_weight(factors[1], factors[0], factors[3], factors[2], *cores, gamma=GAMMA)
    return {**tensors, "hada_t1": cores[0], "hada_t2": cores[1]}, base, base + change.reshape(shape)


def kronecker(shape: tuple[int, ...], *, split: str) -> Case:
    """`split` names the factors that are products: "", "2", "12"."""
    out, inside, *kernel = shape
    out1, in1 = 2, 2
    out2, in2 = out // out1, inside // in1
    rank = 2
    w1 = w1_a = w1_b = w2 = w2_a = w2_b = None
    tensors: dict[str, Tensor] = {}
    if "1" in split:
        w1_a, w1_b = randn(out1, rank), randn(rank, in1)
        tensors |= {"lokr_w1_a": w1_a, "lokr_w1_b": w1_b}
    else:
        w1 = tensors["lokr_w1"] = randn(out1, in1)
    if "2" in split:
        w2_a, w2_b = randn(out2, rank), randn(rank, in2 * torch.Size(kernel).numel())
        tensors |= {"lokr_w2_a": w2_a, "lokr_w2_b": w2_b}
    else:
        w2 = tensors["lokr_w2"] = randn(out2, in2, *kernel)
    base = randn(*shape)
    change = lokr.diff_weight(w1, w1_a, w1_b, w2, w2_a, w2_b, None, gamma=ALPHA)
    return tensors, base, base + change.reshape(shape)


def dora(shape: tuple[int, ...]) -> Case:
    tensors, base, merged = lora(shape)
    scale = 0.5 + randn(1, shape[1], *[1] * (len(shape) - 2)).abs()
    return {**tensors, "dora_scale": scale}, base, apply_dora_scale(base, merged - base, scale, 1.0)


def oft(shape: tuple[int, ...], *, rescaled: bool) -> Case:
    out, *rest = shape
    blocks, base = randn(4, out // 4, out // 4), randn(*shape)
    rescale = 1 + randn(out, *[1] * len(rest)) if rescaled else None
    change = diag_oft.diff_weight(base, blocks, rescale, constraint=0.05 * out)
    tensors = {"oft_blocks": blocks, "alpha": torch.tensor(0.05)}
    return tensors if rescale is None else {**tensors, "rescale": rescale}, base, base + change


def butterfly(shape: tuple[int, ...], *, rescaled: bool) -> dict[str, Tensor]:
    """As it is saved: strength leads each stage to its rotations, so the merged weight stands there for each."""
    out, *rest = shape
    blocks, base = randn(3, out // 2, 2, 2), randn(*shape)
    rescale = 1 + randn(out, *[1] * len(rest)) if rescaled else None
    merged = {
        f"merged {strength}": base + boft.diff_weight(base, blocks, rescale, constraint=0.05 * out, scale=strength)
        for strength in STRENGTHS
    }
    tensors = {"oft_blocks": blocks, "alpha": torch.tensor(0.05), "base": base, **merged}
    return tensors if rescale is None else {**tensors, "rescale": rescale}


def main() -> None:
    cases: dict[str, Case] = {}
    for kind, shape in (("linear", LINEAR), ("conv", CONV)):
        cases[f"lora {kind}"] = lora(shape)
        cases[f"loha {kind}"] = hadamard(shape)
        cases[f"dora {kind}"] = dora(shape)
        cases[f"oft {kind}"] = oft(shape, rescaled=False)
        cases[f"oft rescaled {kind}"] = oft(shape, rescaled=True)
        for split in ("", "2", "12"):
            cases[f"lokr {split} {kind}"] = kronecker(shape, split=split)
    cases["lora tucker conv"] = tucker(CONV)
    cases["loha tucker conv"] = hadamard_tucker(CONV)
    saved = {}
    for name, (tensors, base, merged) in cases.items():
        alpha = {} if "alpha" in tensors else {"alpha": torch.tensor(ALPHA)}
        saved |= {f"{name}/{key}": value.contiguous() for key, value in {**tensors, **alpha}.items()}
        saved |= {f"{name}/base": base, f"{name}/merged": merged.contiguous()}
    for kind, shape in (("linear", (16, 20)), ("conv", CONV)):
        for rescaled in (False, True):
            name = f"boft {'rescaled ' if rescaled else ''}{kind}"
            saved |= {f"{name}/{key}": value.contiguous() for key, value in butterfly(shape, rescaled=rescaled).items()}
    save_file(saved, Path(__file__).with_name("lycoris_reference.safetensors"))


if __name__ == "__main__":
    main()
