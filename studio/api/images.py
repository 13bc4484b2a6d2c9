"""Routes of pictures: the gallery, its files, and the inputs that users start from. No route takes a path."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from starlette.datastructures import UploadFile

from pipelines.spec.errors import InvalidRequest, NotFound
from studio.api.views import ImagePage, ImageView, StoredInput, StudioDep
from studio.inputs import MAX_INPUT_BYTES
from studio.metadata import stripped

MEDIA_TYPES: Mapping[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "avif": "image/avif"}
FILE_HEADERS: Mapping[str, str] = {
    "Cache-Control": "private, max-age=86400",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox",
    "X-Content-Type-Options": "nosniff",
}
_FILE_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {media_type: {} for media_type in MEDIA_TYPES.values()}},
    304: {"description": "Unchanged."},
}

router = APIRouter(tags=["images"])
IfNoneMatch = Annotated[str | None, Header()]


@router.get("/images")
def list_images(
    studio: StudioDep,
    *,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    job_id: Annotated[str | None, Query(description="Only the pictures of this job, in their order.")] = None,
) -> ImagePage:
    """List the gallery, newest first, or one job's pictures."""
    if job_id is not None:
        images = studio.gallery.of_job(studio.job(job_id).id)
        return ImagePage(images=[ImageView.of(image) for image in images[offset : offset + limit]], total=len(images))
    page = studio.gallery.page(limit=limit, offset=offset)
    return ImagePage(images=[ImageView.of(image) for image in page], total=studio.gallery.count())


@router.get("/images/{image_id}")
def read_image(image_id: str, studio: StudioDep) -> ImageView:
    """Return what made a picture."""
    return ImageView.of(studio.gallery.get(image_id))


@router.get("/images/{image_id}/file", response_class=FileResponse, responses=_FILE_ANSWER)
def read_image_file(
    image_id: str,
    studio: StudioDep,
    *,
    download: Annotated[bool, Query(description="Let the browser save it instead of showing it.")] = False,
    metadata: Annotated[bool, Query(description="False: a copy that says nothing of how it was made.")] = True,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Return the picture's file, byte for byte, with the record inside it; or a copy without any metadata."""
    image = studio.gallery.get(image_id)
    if not metadata:
        disposition = f'attachment; filename="{image.id}{image.path.suffix}"' if download else "inline"
        headers = {**FILE_HEADERS, "Content-Disposition": disposition}
        return Response(stripped(image.path), media_type=MEDIA_TYPES[image.request.output_format], headers=headers)
    return _file(
        image.path,
        media_type=MEDIA_TYPES[image.request.output_format],
        etag=image.sha256,
        known=if_none_match,
        disposition="attachment" if download else "inline",
    )


@router.get("/images/{image_id}/thumbnail", response_class=FileResponse, responses=_FILE_ANSWER)
def read_thumbnail(image_id: str, studio: StudioDep, *, if_none_match: IfNoneMatch = None) -> Response:
    """Return the picture, small (WebP)."""
    image = studio.gallery.get(image_id)
    return _file(image.thumbnail, media_type="image/webp", etag=f"{image.sha256}-t", known=if_none_match)


@router.delete("/images/{image_id}", status_code=204)
def delete_image(image_id: str, studio: StudioDep) -> None:
    """Delete a picture: its file, thumbnail and row."""
    studio.gallery.delete(image_id)


@router.post(
    "/inputs",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": f"PNG, JPEG, WebP or AVIF, at most {MAX_INPUT_BYTES // 2**20} MiB, raw or as form field "
            "`file`.",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {
                    "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
                },
            },
        }
    },
)
async def store_input(request: Request, studio: StudioDep) -> StoredInput:
    """Store an image to start from, and return the id that requests name it by. The same bytes give the same id."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1, max_fields=8) as form:
            upload = form.get("file")
            if not isinstance(upload, UploadFile):
                raise InvalidRequest("the form must hold the image as a file named `file`", field="file")
            data = await upload.read()
    else:
        data = await request.body()
    return StoredInput(id=await run_in_threadpool(studio.inputs.put, data))


@router.get("/inputs/{input_id}/file", response_class=FileResponse, responses=_FILE_ANSWER)
def read_input_file(input_id: str, studio: StudioDep, *, if_none_match: IfNoneMatch = None) -> Response:
    """Return a stored input, byte for byte."""
    media_type = MEDIA_TYPES[studio.inputs.kind(input_id)]
    return _file(studio.inputs.path(input_id), media_type=media_type, etag=input_id, known=if_none_match)


def _file(path: Path, *, media_type: str, etag: str, known: str | None, disposition: str = "inline") -> Response:
    """Return an image of ours with a type we know, readable as nothing else."""
    headers = {**FILE_HEADERS, "ETag": f'"{etag}"'}
    if known is not None and f'"{etag}"' in known:
        return Response(status_code=304, headers=headers)
    if not path.is_file():
        raise NotFound(f"the file {path.name} is gone from the outputs folder; `studio gallery rebuild` forgets it")
    return FileResponse(
        path, media_type=media_type, headers=headers, filename=path.name, content_disposition_type=disposition
    )
