"""The one place where errors become HTTP: status, sentence, field."""

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from pipelines.spec.errors import (
    AlreadyRunning,
    Cancelled,
    GenerationFailed,
    InvalidRequest,
    NotFound,
    StorageError,
    StudioError,
)

STATUS: Mapping[type[StudioError], int] = {
    InvalidRequest: 422,
    NotFound: 404,
    StorageError: 507,
    AlreadyRunning: 409,
    Cancelled: 409,
    GenerationFailed: 500,
    StudioError: 500,
}
"""The nearest ancestor decides."""


class Problem(BaseModel):
    """What went wrong, in words."""

    detail: str = Field(description="The rule, the value and the way out.")
    field: str | None = Field(None, description="The field at fault, if it is a single one.")


def install(app: FastAPI) -> None:
    """Make the app answer every error with a Problem."""
    app.add_exception_handler(StudioError, _answer_studio_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)


def _answer_studio_error(_: Request, error: Exception) -> JSONResponse:
    status = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    return _problem(status, str(error), field=getattr(error, "field", None))


def _answer_validation_error(_: Request, error: Exception) -> JSONResponse:
    """Explain what FastAPI itself refused: broken JSON, a page size out of range. Requests explain themselves."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _problem(422, f"the body is not valid JSON: {first['ctx']['error']}")
    field = next(part for part in reversed(first["loc"]) if isinstance(part, str))
    return _problem(422, f"{field}: {first['msg'].lower()}", field=field)


def _answer_http_exception(_: Request, error: Exception) -> JSONResponse:
    """Say what Starlette itself refused: a wrong method, a path that leads nowhere."""
    assert isinstance(error, HTTPException)
    return _problem(error.status_code, str(error.detail), headers=error.headers)


def _problem(
    status: int, detail: str, *, field: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(Problem(detail=detail, field=field).model_dump(), status_code=status, headers=headers)
