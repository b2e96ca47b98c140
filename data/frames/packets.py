"""Whether a packet of a video is one whole picture, by its first bytes and the lengths in it.

Not a decoder: it tells packets without a picture (parameters, hidden reference pictures) and those
that something overwrote, for the codecs with such a frame around them. What it lets pass is still
decoded before a picture is given.
"""

from __future__ import annotations

from collections.abc import Callable

Check = Callable[[memoryview, bytes], bool]


def is_picture(packet: memoryview, codec: str, extradata: bytes) -> bool:
    """Return whether a packet holds one picture to show, as far as its frame tells.

    Args:
        codec: One of `CHECKS`.
        extradata: The parameters of the stream.
    """
    return CHECKS[codec](packet, extradata)


def _h264(packet: memoryview, extradata: bytes) -> bool:
    if len(extradata) < 5 or extradata[0] != 1:
        return False
    return _has_slice(packet, (extradata[4] & 3) + 1, 0, range(1, 6))


def _hevc(packet: memoryview, extradata: bytes) -> bool:
    if len(extradata) < 22 or extradata[0] != 1:
        return False
    return _has_slice(packet, (extradata[21] & 3) + 1, 1, range(32))


def _has_slice(packet: memoryview, length_bytes: int, shift: int, slices: range) -> bool:
    """Walk the units of a packet: lengths that add up, no forbidden bit, and a slice."""
    at = 0
    found = False
    while at < len(packet):
        length = int.from_bytes(packet[at : at + length_bytes])
        at += length_bytes
        if not length or at + length > len(packet):
            return False
        head = packet[at]
        if head & 0x80:
            return False
        kind = head >> 1 & 63 if shift else head & 31
        found = found or kind in slices
        at += length
    return found


def _av1(packet: memoryview, extradata: bytes) -> bool:
    """Walk the units of a packet: lengths that add up, and a frame or its header."""
    at = 0
    found = False
    while at < len(packet):
        head = packet[at]
        if head & 0x80:
            return False
        found = found or head >> 3 & 15 in (3, 6)
        at += 2 if head & 4 else 1
        if not head & 2:
            break
        length = 0
        for place in range(8):
            if at >= len(packet):
                return False
            part = packet[at]
            at += 1
            length |= (part & 127) << 7 * place
            if not part & 128:
                break
        at += length
        if at > len(packet):
            return False
    return found


# By the name of the decoder.
CHECKS: dict[str, Check] = {
    "h264": _h264,
    "hevc": _hevc,
    "av1": _av1,
    "libdav1d": _av1,
    "libaom-av1": _av1,
}
