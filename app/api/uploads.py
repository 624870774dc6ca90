"""Files come in here."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

from anyio import move_on_after
from fastapi import APIRouter, Query, Request, Response
from starlette.requests import ClientDisconnect

from app.api.wiring import Tenant, Wired
from app.containers import UploadKind
from app.contract import Upload
from app.errors import Problem, problem_of
from app.observe import CLIENT_LEFT
from app.uploads import announced

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

KINDS = "a clip to restore; a mask, white where pixels are known; a kernel, a grey picture of a point after the blur"
DRAIN_BYTES, DRAIN_SECONDS = 16 << 20, 2

RAW_BODY = {
    "requestBody": {
        "required": True,
        "description": "The file itself. `Content-Digest: sha-256=:...:` (RFC 9530) has it checked on arrival.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("", status_code=201, openapi_extra=RAW_BODY)
async def create_upload(
    request: Request,
    response: Response,
    wired: Wired,
    tenant: Tenant,
    kind: Annotated[UploadKind, Query(description=KINDS)] = "clip",
) -> Upload:
    """Send a file as the raw body. It is decoded once, whole; what cannot be restored is refused, and says why."""
    body = request.stream()
    try:
        upload = await wired.uploads.receive(kind, announced(request.headers), body, tenant)
    except ClientDisconnect:
        wired.metrics.uploads.labels("refused", "client_left").inc()
        raise Problem(CLIENT_LEFT, "client_left", "The client left before its body was whole.") from None
    except Exception as error:
        wired.metrics.uploads.labels("refused", problem_of(error).code).inc()
        if "expect" not in request.headers:
            await _drain(body)
        raise
    wired.metrics.uploads.labels("accepted", "").inc()
    response.headers["Location"] = f"/v1/uploads/{upload.id}"
    return upload


@router.get("/{upload_id}")
def get_upload(upload_id: str, wired: Wired, tenant: Tenant) -> Upload:
    """What the service knows of a file."""
    return wired.uploads.get(upload_id, tenant)


@router.delete("/{upload_id}", status_code=204)
def delete_upload(upload_id: str, wired: Wired, tenant: Tenant) -> None:
    """Remove a file that no unfinished job needs."""
    wired.uploads.delete(upload_id, tenant)


async def _drain(body: AsyncIterator[bytes]) -> None:
    """Read on for a moment: closing on a client that still sends could cost it the answer."""
    left = DRAIN_BYTES
    with suppress(ClientDisconnect), move_on_after(DRAIN_SECONDS):
        async for piece in body:
            left -= len(piece)
            if left < 0:
                return
