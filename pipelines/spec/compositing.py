"""Which pixels of a softly masked picture are new: where its latents hardly changed, the original shows.

The idea and the settings are those of A1111's soft inpainting; its filter against speckles is another one, so single
pixels of the seam differ.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipelines.spec.geometry import blur
from pipelines.spec.resolved import ResolvedRequest

_BLUR = 1.0
"""In latents: one that changed vouches for its neighbours."""

Latents = npt.NDArray[np.float32]


def changed(request: ResolvedRequest, *, original: Latents, painted: Latents, repaint: Latents) -> Image.Image:
    """Return an L picture of the size of the latents: 255 shows the painted picture, 0 the original.

    With the distance d between the latents, the threshold t and the mask's part p in the decision, this is
    d^c / (d^c + (t · p / (1 - p))^c), eased at both ends: one half where the distance is the threshold.

    Args:
        request: gives threshold, contrast c and the influence of the mask.
        original: (channels, height, width), of the input.
        painted: of the same shape, of the result.
        repaint: (height, width), 1 is repainted, 0 is kept.
    """
    distance = np.linalg.norm(painted.astype(np.float64) - original, axis=0)
    influence = request.soft_mask_influence
    part = 0.5 * (1 - influence) + (1 - repaint.astype(np.float64)) * influence
    new = (distance * (1 - part)) ** request.soft_difference_contrast
    old = (request.soft_difference_threshold * part) ** request.soft_difference_contrast
    both = new + old
    share = np.divide(new, both, out=np.zeros_like(new), where=both > 0)
    eased = share**3 * (share * (6 * share - 15) + 10)  # smootherstep: Perlin, "Improving Noise", 2002
    return blur(Image.fromarray((eased * 255).round().astype(np.uint8), "L"), sigma_x=_BLUR, sigma_y=_BLUR)
