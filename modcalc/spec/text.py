"""The text of a file that a user names."""

from pathlib import Path

from modcalc.errors import SpecError


def read_text(path: Path, name: str, most: int, kind: str, needed: str = "") -> str:
    """The text of a file of at most `most` bytes, without a byte order mark. name, kind: what messages call it and what it should be;
    needed: what to give where it cannot be opened.

    Raises SpecError for a file that cannot be read, is larger, or is no UTF-8 (with the line).
    """
    try:
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except (OSError, ValueError) as wrong:  # the latter for a name that holds a NUL
        raise SpecError([f"{name}: not readable: {getattr(wrong, 'strerror', None) or wrong}{needed}"]) from None
    return decoded(raw, name, most, kind)


def decoded(raw: bytes, name: str, most: int, kind: str) -> str:
    """The text that `read_text` promises, of what a file holds."""
    if len(raw) > most:
        raise SpecError([f"{name}: found more than {most // 1024:,} KiB; {kind} is a short file"])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        line = raw.count(b"\n", 0, wrong.start) + 1
        raise SpecError([f"{name}:{line}: found byte 0x{raw[wrong.start]:02x}; allowed text in UTF-8; is this {kind}?"]) from None
