"""Errors as clients see them: application/problem+json (RFC 9457), made in one place from whatever was raised."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from obstore.exceptions import GenericError
from pydantic import BaseModel, Field
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.away import away
from app.invalid import field_of, reason_of
from app.probe import Refused
from app.records import IllegalTransition, UnknownJob
from app.store import brief

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
AWAY_SECONDS = 2  # the Retry-After while something the service needs is away


class FieldError(BaseModel):
    """One thing wrong with the request."""

    field: str = Field(examples=["degradation.0.factor"])
    code: str = Field(examples=["less_than_equal"])
    detail: str


class ProblemDocument(BaseModel):
    """The body of every error."""

    type: str = Field(examples=["urn:visionxl:problem:invalid_parameter"])
    title: str = Field(examples=["Invalid parameter"])
    status: int = Field(examples=[422])
    detail: str
    instance: str = Field(examples=["/v1/jobs"])
    code: str = Field(examples=["invalid_parameter"], description="stable, for programs")
    retryable: bool = Field(description="the same request may succeed later")
    errors: list[FieldError] = Field(default_factory=list)


class Problem(HTTPException):
    """An error the client can read.

    code: stable name of the kind of problem. errors: the fields at fault. retry_after: seconds after which the same
    request may succeed; given, the problem is retryable.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[FieldError] = (),
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        again = {} if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, detail, {**(headers or {}), **again})
        self.code = code
        self.errors = list(errors)
        self.retryable = retry_after is not None


def invalid(field: str, detail: str, code: str = "invalid") -> Problem:
    """422 for one field."""
    return Problem(422, "invalid_parameter", f"{field}: {detail}", [FieldError(field=field, code=code, detail=detail)])


def problem_of(error: Exception) -> Problem:
    """What the client is told of `error`; of an error nobody foresaw, nothing but that it happened."""
    match error:
        case Problem():
            return error
        case Refused():
            return Problem(error.status, error.code, error.detail)
        case RequestValidationError():
            return _invalid_request(error)
        case HTTPException():
            phrase = HTTPStatus(error.status_code).phrase
            headers = dict(error.headers or {})
            return Problem(error.status_code, phrase.lower().replace(" ", "_"), error.detail, headers=headers)
        case UnknownJob():
            return Problem(404, "job_not_found", "There is no such job.")
        case IllegalTransition():
            detail = f"The job is {error.job.status}, which does not allow this."
            return Problem(409, "wrong_state", detail)
        case _ if away(error):
            return Problem(503, "unavailable", "The service is briefly unavailable.", retry_after=AWAY_SECONDS)
        case _:
            return Problem(500, "internal_error", "The service failed. The request id finds it in our logs.")


def render(request: Request, error: Exception) -> Response:
    """The response for `error`."""
    problem = problem_of(error)
    if problem.status_code < 400:
        return Response(status_code=problem.status_code, headers=problem.headers)
    document = ProblemDocument(
        type=f"urn:visionxl:problem:{problem.code}",
        title=problem.code.replace("_", " ").capitalize(),
        status=problem.status_code,
        detail=problem.detail,
        instance=request.scope["path"],
        code=problem.code,
        retryable=problem.retryable,
        errors=problem.errors,
    )
    # Names of unknown fields come back as they came, even such as no UTF-8 can write: hence ASCII.
    body = json.dumps(document.model_dump()).encode("ascii")
    return Response(body, problem.status_code, problem.headers, media_type=MEDIA_TYPE)


async def handle(request: Request, error: Exception) -> Response:
    if isinstance(error, RedisError) and not away(error):
        raise error  # nobody foresaw that
    if away(error):
        log.warning("Redis or the store is away", kind=type(error).__name__, error=brief(error))
    return render(request, error)


def install(app: FastAPI) -> None:
    """Render every foreseen error; what nobody foresaw is caught further out, where it is also logged and counted."""
    foreseen = (HTTPException, RequestValidationError, Refused, UnknownJob, IllegalTransition, RedisError, GenericError)
    for kind in foreseen:
        app.add_exception_handler(kind, handle)


RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status, description in {"4XX": "The request cannot be met", "5XX": "The service cannot meet it now"}.items()
}


def openapi(app: FastAPI) -> dict[str, Any]:
    """The schema, with the problem document that all errors share."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        document = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
        components |= document.pop("$defs")
        components["Problem"] = document
        app.openapi_schema = schema
    return app.openapi_schema


# --- validation errors ---------------------------------------------------------------------------------------------


def _invalid_request(error: RequestValidationError) -> Problem:
    errors = [
        FieldError(
            field=field_of(found["loc"][1:]) or str(found["loc"][0]),  # after "body", "query" or the like
            code=str(found["type"]),
            detail=reason_of(str(found["msg"])),
        )
        for found in error.errors()
    ]
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(422, "invalid_parameter", f"{first.field}: {first.detail}{more}", errors)
