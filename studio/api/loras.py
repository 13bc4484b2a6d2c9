"""Routes of LoRAs: which there are, and what shows them. No route takes a path: the catalogue looks names up."""

import hashlib

from fastapi import APIRouter, Response

from studio.api.images import FILE_HEADERS, IfNoneMatch
from studio.api.views import LoraView, StudioDep

router = APIRouter(tags=["models"])


@router.get("/loras")
def list_loras(studio: StudioDep) -> list[LoraView]:
    """List the LoRAs that are found, those that cannot be used among them, with the reason."""
    return [LoraView.of(lora) for lora in studio.loras()]


@router.get("/loras/{name:path}/preview", response_class=Response, responses={200: {"content": {"image/webp": {}}}})
def read_preview(name: str, studio: StudioDep, *, if_none_match: IfNoneMatch = None) -> Response:
    """Return a small picture (WebP) of what a LoRA does: the file beside it, or the one in its header."""
    data = studio.lora_preview(name)
    etag = f'"{hashlib.sha256(data).hexdigest()}"'
    headers = {**FILE_HEADERS, "Cache-Control": "private, max-age=60", "ETag": etag}
    if if_none_match is not None and etag in if_none_match:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type="image/webp", headers=headers)
