"""The tensors of a LoRA file: the bytes that were asked for, and numbers."""

import hashlib
import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from pipelines.spec.errors import LoraError, ModelError
from pipelines.spec.loras import LoraFile
from pipelines.spec.safetensors_header import Header, TensorInfo, read_header

_DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "BOOL": torch.bool,
        "U8": torch.uint8,
        "I8": torch.int8,
        "I16": torch.int16,
        "I32": torch.int32,
        "I64": torch.int64,
        "F8_E4M3": torch.float8_e4m3fn,
        "F8_E5M2": torch.float8_e5m2,
        "F16": torch.float16,
        "BF16": torch.bfloat16,
        "F32": torch.float32,
        "F64": torch.float64,
    }
)


def read(file: LoraFile) -> tuple[dict[str, Tensor], Header]:
    """Return tensors, numbers in float32, and header of a file, once it proves to be the one that was asked for.

    Each tensor has memory of its own: in a file they lie at any offset, while the order in which kernels add numbers
    up, and so the last bit of every pixel, follows from the alignment.

    Raises:
        LoraError: the file is missing, damaged, changed or not finite.
    """
    try:
        header = read_header(file.path)
        # into memory, and not mapped: were the file cut short meanwhile, a mapping would end the process
        data = torch.from_numpy(np.fromfile(file.path, np.uint8, offset=header.data_start))
    except ModelError as error:
        raise LoraError(f"LoRA {file.name!r}: {error}") from error
    except OSError as error:
        raise LoraError(f"LoRA {file.name!r}: {file.path} cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(data.numpy().data).hexdigest()
    if digest != file.sha256:
        raise LoraError(
            f"LoRA {file.name!r}: {file.path} has changed: its tensors have the hash {digest[:12]}, and "
            f"{file.sha256[:12]} was asked for; choose it again"
        )
    tensors = {}
    for key, info in header.tensors.items():
        if info.dtype not in _DTYPES:
            raise LoraError(
                f"LoRA {file.name!r}: {key} is of {info.dtype}, and {', '.join(_DTYPES)} can be read; save it in F16"
            )
        tensors[key] = _tensor(data, info)
        if not tensors[key].is_floating_point() and tensors[key].numel() > 1:
            raise LoraError(f"LoRA {file.name!r}: {key} is of {info.dtype}, where weights are floats; save it in F16")
        if not _is_finite(tensors[key]):
            raise LoraError(f"LoRA {file.name!r}: {key} holds NaN or infinity: the file is damaged; download it again")
    return tensors, header


def _tensor(data: Tensor, info: TensorInfo) -> Tensor:
    dtype = _DTYPES[info.dtype]
    start, end = info.data_offsets
    own = data[start:end]
    if start % dtype.itemsize:
        own = own.clone()  # which lies where its numbers may lie
    return own.view(dtype).reshape(info.shape).to(torch.float32 if dtype.is_floating_point else dtype, copy=True)


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    least, most = tensor.aminmax()  # one pass; NaN is both
    return math.isfinite(least) and math.isfinite(most)
