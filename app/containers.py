"""Which demuxer a file is for. FFmpeg would guess, also from the file's name, and a stranger's file can mislead it."""

from typing import Literal

BesideKind = Literal["mask", "kernel"]
UploadKind = Literal["clip", BesideKind]

_MOV = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_PICTURES = (b"avif", b"avis", b"heic", b"heix", b"heif", b"mif1", b"msf1")  # brands of mp4-like stills

HEAD_BYTES = 400  # as many as it takes to tell


def demuxer_of(head: bytes, kind: UploadKind = "clip") -> str | None:
    """FFmpeg's name of the one demuxer for a file, by its first bytes; None where the service takes no such file.

    A clip is a video, a kernel a PNG or JPEG, a mask either.
    """
    found = None if kind == "kernel" else _video(head)
    if found or kind == "clip":
        return found
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png_pipe"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg_pipe"
    return None


def _video(head: bytes) -> str | None:
    if head[4:8] in _MOV and head[8:12] not in _PICTURES:
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    if any(head[at : at + 1] == head[at + step : at + step + 1] == b"G" for at, step in ((0, 188), (4, 192))):
        return "mpegts"
    return None
