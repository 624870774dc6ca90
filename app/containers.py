"""Which demuxer a file is for. FFmpeg would guess, also from the file's name, and a stranger's file can mislead it."""

_MOV = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot")
_PICTURES = (b"avif", b"avis", b"heic", b"heix", b"heif", b"mif1", b"msf1")  # brands of mp4-like stills

HEAD_BYTES = 400  # as many as it takes to tell


def demuxer_of(head: bytes, stills: bool = False) -> str | None:
    """FFmpeg's name of the one demuxer for a file, by its first bytes; None where the service takes no such file.

    stills: whether it may also be a PNG or JPEG.
    """
    if head[4:8] in _MOV and head[8:12] not in _PICTURES:
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "matroska"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return "avi"
    if any(head[at : at + 1] == head[at + step : at + step + 1] == b"G" for at, step in ((0, 188), (4, 192))):
        return "mpegts"
    if stills and head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png_pipe"
    if stills and head.startswith(b"\xff\xd8\xff"):
        return "jpeg_pipe"
    return None
