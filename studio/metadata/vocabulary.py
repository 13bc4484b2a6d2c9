"""What other programs call samplers, schedules and upscalers, in A1111's words, which our tables know as labels."""

from collections.abc import Mapping

from pipelines.spec.schedulers import NOISE_SCHEDULES, SCHEDULERS, canonical_noise_schedule, canonical_scheduler

SAMPLERS: Mapping[str, str] = {
    # ComfyUI, Fooocus
    "euler_ancestral": "Euler a",
    "heunpp2": "HeunPP2",
    "dpm_2": "DPM2",
    "dpm_2_ancestral": "DPM2 a",
    "dpm_fast": "DPM fast",
    "dpm_adaptive": "DPM adaptive",
    "dpmpp_2s_ancestral": "DPM++ 2S a",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_sde_gpu": "DPM++ SDE",
    "dpmpp_2m_sde_gpu": "DPM++ 2M SDE",
    "dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "dpmpp_3m_sde_gpu": "DPM++ 3M SDE",
    "uni_pc": "UniPC",
    "ddpm": "DDPM",
    "restart": "Restart",
    # SD.Next
    "SA Solver": "SA-Solver",
    "LMSD": "LMS",
    "KDPM2": "DPM2",
    "KDPM2 a": "DPM2 a",
    "DPM SDE": "DPM++ SDE",
    # InvokeAI
    "dpmpp_2": "DPM++ 2M",
    "dpmpp_2s": "DPM++ 2S",
    "kdpm_2": "DPM2",
    "kdpm_2_a": "DPM2 a",
    "pndm": "PLMS",
    # NovelAI
    "ddim_v3": "DDIM",
}
"""A name that is neither here nor in our tables is a sampler that we lack."""

NEAR: frozenset[str] = frozenset({"KDPM2", "KDPM2 a", "DPM SDE"})
"""SD.Next's own names for samplers of diffusers that are not quite ours."""

NEAR_IN_SDNEXT: frozenset[str] = frozenset({"DDIM", "UniPC", "DPM++ 2M SDE", "LCM", "DDPM"})
"""What SD.Next has from diffusers, where A1111 has something else under the same name."""

OTHER_IN_SDNEXT: frozenset[str] = frozenset({"DPM++ SDE", "PLMS"})
"""Names of A1111's that are another sampler in SD.Next."""

SCHEDULES: Mapping[str, str] = {
    "native": "Normal",
    "ddim_uniform": "DDIM",
    "kl_optimal": "KL Optimal",
    "align_your_steps": "Align Your Steps",
    # SD.Next
    "betas": "Beta",
}

UPSCALERS: Mapping[str, str] = {
    "None": "Lanczos",  # A1111 without an upscaler resizes with Pillow
    # SD.Next
    "Resize Lanczos": "Lanczos",
    "Resize Nearest": "Nearest",
    "Latent Bilinear": "Latent",
    "Latent Bicubic": "Latent (bicubic)",
    "Latent Nearest": "Latent (nearest)",
    "Latent Nearest exact": "Latent (nearest-exact)",
}

UPSCALER_FILES: Mapping[str, str] = {
    "R-ESRGAN 4x+": "RealESRGAN_x4plus",
    "R-ESRGAN 4x+ Anime6B": "RealESRGAN_x4plus_anime_6B",
    "R-ESRGAN 2x+": "RealESRGAN_x2plus",
    "R-ESRGAN General 4xV3": "realesr-general-x4v3",
    "R-ESRGAN General WDN 4xV3": "realesr-general-wdn-x4v3",
    "R-ESRGAN AnimeVideo": "realesr-animevideov3",
    "ScuNET GAN": "scunet_color_real_gan",
    "ScuNET PSNR": "scunet_color_real_psnr",
}
"""A1111's labels that are not the names of the files that it fetches -> those. Every other model goes by its file."""


def scheduler_of(name: str) -> str:
    """Return our scheduler for any program's name.

    Raises:
        ValueError: we have no such sampler; the message says which there are.
    """
    plain = name.removeprefix("sample_").removeprefix("k_")
    for candidate in (name, plain, SAMPLERS.get(plain, plain)):
        try:
            return canonical_scheduler(candidate)
        except ValueError:
            continue
    raise ValueError(f"there is no sampler {_short(name)}; choose one of {', '.join(SCHEDULERS)}")


def noise_schedule_of(name: str) -> str | None:
    """Return our noise schedule for any program's name; None for A1111's Automatic.

    Raises:
        ValueError: we have no such schedule; the message says which there are.
    """
    for candidate in (name, SCHEDULES.get(name, name)):
        try:
            return canonical_noise_schedule(candidate)
        except ValueError:
            continue
    raise ValueError(f"there is no noise schedule {_short(name)}; choose one of {', '.join(NOISE_SCHEDULES)}")


def split_invokeai(name: str) -> tuple[str, str | None]:
    """Return sampler and schedule of an InvokeAI scheduler: "dpmpp_2m_k" is DPM++ 2M with Karras."""
    if name.startswith("k_") or not name.endswith("_k"):
        return name, None
    return name.removesuffix("_k"), "Karras"


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:59]}…")
