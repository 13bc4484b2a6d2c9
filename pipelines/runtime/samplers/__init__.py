"""Samplers in the manner of k-diffusion (Katherine Crowson, MIT): functions of a denoiser, latents and noise levels.

`SAMPLERS` has one for every row of `pipelines.spec.schedulers.SCHEDULERS`; `interface` says what they are given,
`brownian` draws the step noise of those that take a path.
"""

from collections.abc import Mapping
from types import MappingProxyType

from pipelines.runtime.samplers.brownian import BrownianNoise
from pipelines.runtime.samplers.dpm_solver import dpm_adaptive, dpm_fast
from pipelines.runtime.samplers.dpmpp import dpmpp_2m, dpmpp_2s_a, dpmpp_sde
from pipelines.runtime.samplers.euler import ddim, ddpm, euler, euler_a, lcm, tcd
from pipelines.runtime.samplers.interface import Denoise, Sample, SamplerOptions, StepNoise
from pipelines.runtime.samplers.multistep import deis, lms, plms
from pipelines.runtime.samplers.multistep_sde import dpmpp_2m_sde, dpmpp_2m_sde_heun, dpmpp_3m_sde
from pipelines.runtime.samplers.sa_solver import sa_solver
from pipelines.runtime.samplers.second_order import dpm2, dpm2_a, heun, restart
from pipelines.runtime.samplers.unipc import unipc

__all__ = ["SAMPLERS", "BrownianNoise", "Denoise", "Sample", "SamplerOptions", "StepNoise"]

SAMPLERS: Mapping[str, Sample] = MappingProxyType(
    {
        "euler": euler,
        "euler_a": euler_a,
        "heun": heun,
        "lms": lms,
        "dpm2": dpm2,
        "dpm2_a": dpm2_a,
        "dpmpp_2s_a": dpmpp_2s_a,
        "dpmpp_sde": dpmpp_sde,
        "dpmpp_2m": dpmpp_2m,
        "dpmpp_2m_sde": dpmpp_2m_sde,
        "dpmpp_2m_sde_heun": dpmpp_2m_sde_heun,
        "dpmpp_3m_sde": dpmpp_3m_sde,
        "dpm_fast": dpm_fast,
        "dpm_adaptive": dpm_adaptive,
        "restart": restart,
        "lcm": lcm,
        "ddim": ddim,
        "plms": plms,
        "unipc": unipc,
        "ddpm": ddpm,
        "deis": deis,
        "tcd": tcd,
        "sa_solver": sa_solver,
    }
)
