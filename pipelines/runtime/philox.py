"""CUDA's normal noise on any machine: Philox4x32-10 and Box-Muller, as torch.randn draws on an NVIDIA card.

Philox: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011). Element i takes the first normal of the
subsequence i, which is what torch does for as many elements as the card runs threads (all but very large pictures).
"""

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)


class PhiloxGenerator:
    """Draws what `torch.randn(…, generator=torch.Generator("cuda").manual_seed(seed))` draws, one call after another.

    Args:
        seed: 0 to 2**64 - 1.
    """

    def __init__(self, seed: int) -> None:
        self._key = (seed & 0xFFFFFFFF, seed >> 32)
        self._offset = 0

    def randn(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Return standard normal noise; each call goes on where the last one ended."""
        count = int(np.prod(shape))
        counter = np.zeros((4, count), dtype=np.uint32)
        counter[0] = self._offset
        counter[2] = np.arange(count, dtype=np.uint32)
        self._offset += 1
        words = philox4x32(counter, self._key)
        return _box_muller(words[0], words[1]).reshape(shape)


def philox4x32(counter: Words, key: tuple[int, int]) -> Words:
    """Return four random words for each counter.

    Args:
        counter: (4, n), the lowest word first.
        key: two words, the lower first.
    """
    words = counter
    for number in range(_ROUNDS):
        round_key = [np.uint32((part + number * step) & 0xFFFFFFFF) for part, step in zip(key, _WEYL, strict=True)]
        first, second = (words[row].astype(np.uint64) * by for row, by in zip((0, 2), _MULTIPLIERS, strict=True))
        words = np.stack(
            [
                _high(second) ^ words[1] ^ round_key[0],
                _low(second),
                _high(first) ^ words[3] ^ round_key[1],
                _low(first),
            ]
        )
    return words


def _high(product: npt.NDArray[np.uint64]) -> Words:
    return (product >> np.uint64(32)).astype(np.uint32)


def _low(product: npt.NDArray[np.uint64]) -> Words:
    return (product & _LOW).astype(np.uint32)


def _box_muller(first: Words, second: Words) -> npt.NDArray[np.float32]:
    """Return the first of the pair of normals that cuRAND makes from two words, in its single precision."""
    unit = np.float32(2.0**-32)
    turn = np.float32(2.0**-32 * 2 * np.pi)
    radius = np.sqrt(np.float32(-2) * np.log(first.astype(np.float32) * unit + unit / np.float32(2)))
    angle = second.astype(np.float32) * turn + turn / np.float32(2)
    normal: npt.NDArray[np.float32] = radius * np.sin(angle)
    return normal
