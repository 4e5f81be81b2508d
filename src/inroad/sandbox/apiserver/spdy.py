"""SPDY/3.1 as far as `kubectl port-forward` speaks it: bytes in, events out; calls in, bytes out. No I/O.

Framing after draft-mbelshe-httpbis-spdy-00 (version 3), as github.com/moby/spdystream uses it: no flow
control, no server push. A data frame is passed on in the pieces in which it arrives.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

FIN = 0x01
_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING, _GOAWAY = 1, 2, 3, 6, 7
_CONTROL = 0x80030000
_HEAD = struct.Struct("!II")
_MAX_CONTROL = 64 * 1024
REFUSED_STREAM = 3

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges "
    "age allow authorization cache-control connection content-base content-encoding content-language "
    "content-length content-location content-md5 content-range content-type date etag expect expires from "
    "host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location "
    "max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer "
    "transfer-encoding upgrade user-agent vary via warning www-authenticate method get status"
)
_NAMES = (
    *_WORDS.split(),
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
)
_DICTIONARY_TAIL = (
    b"100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    b"203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    b"403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    b"Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    b"chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    b"text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = b"".join(struct.pack("!I", len(n)) + n.encode() for n in _NAMES) + _DICTIONARY_TAIL
"""What both ends' header compression starts from (section 2.6.10.1 of the draft)."""


class SpdyError(Exception):
    """The peer broke the protocol; the connection can't go on."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer opened a stream; answer with `Session.reply` or `Session.reset`."""

    stream: int
    headers: Mapping[str, str]
    fin: bool


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream, a view of what was received; `fin` with the last of them."""

    stream: int
    data: memoryview
    fin: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """The peer wants to hear no more of a stream."""

    stream: int


@dataclass(frozen=True, slots=True)
class Reply:
    """These bytes must be sent back at once (the answer to a ping)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class GoneAway:
    """The peer will open no more streams."""


Event = Opened | Data | Reset | Reply | GoneAway


class Session:
    """The server's end of one SPDY connection."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self._waiting = bytearray()
        """A frame's head, and for control frames its body too, until complete."""
        self._stream = 0
        self._fin = False
        self._left = 0
        """Bytes of the present data frame that have not come yet."""

    def receive(self, data: memoryview) -> Iterator[Event]:
        """Take bytes and yield what they mean; consume it all before the next call. `SpdyError`."""
        while data:
            if self._left:
                piece = data[: self._left]
                data = data[len(piece) :]
                self._left -= len(piece)
                yield Data(self._stream, piece, self._fin and self._left == 0)
                continue
            need = self._size() - len(self._waiting)
            self._waiting += data[:need]
            data = data[need:]
            if len(self._waiting) < 8 or len(self._waiting) < self._size():
                continue
            frame = bytes(self._waiting)
            self._waiting.clear()
            event = self._frame(frame)
            if event is not None:
                yield event

    def reply(self, stream: int, headers: Mapping[str, str] | None = None) -> bytes:
        """Accept a stream."""
        block = self._header_block(headers or {})
        return _control(_SYN_REPLY, struct.pack("!I", stream) + block)

    @staticmethod
    def data_head(stream: int, size: int, *, fin: bool = False) -> bytes:
        """Return the head of a data frame; `size` bytes (less than 16 MB) follow it."""
        return _HEAD.pack(stream, (FIN << 24 if fin else 0) | size)

    @staticmethod
    def reset(stream: int, status: int = REFUSED_STREAM) -> bytes:
        """End a stream abnormally, or refuse it."""
        return _control(_RST_STREAM, struct.pack("!II", stream, status))

    def _size(self) -> int:
        """Return how many bytes the present frame needs before it can be looked at."""
        if len(self._waiting) < 8:
            return 8
        first, second = _HEAD.unpack_from(self._waiting)
        if not first & 0x80000000:
            return 8
        length = second & 0xFFFFFF
        if first & 0x7FFF0000 != _CONTROL & 0x7FFF0000 or length > _MAX_CONTROL:
            raise SpdyError(f"bad control frame {first:08x} of {length} bytes")
        return int(8 + length)

    def _frame(self, frame: bytes) -> Event | None:
        first, second = _HEAD.unpack_from(frame)
        flags, length = second >> 24, second & 0xFFFFFF
        if not first & 0x80000000:
            self._stream, self._fin, self._left = first, bool(flags & FIN), length
            return Data(first, memoryview(b""), True) if self._fin and length == 0 else None
        body = frame[8:]
        kind = first & 0xFFFF
        try:
            if kind == _SYN_STREAM:
                headers = self._headers(body[10:])
                return Opened(_stream_id(body), headers, bool(flags & FIN))
            if kind == _SYN_REPLY:
                self._headers(body[4:])  # keeps the decompressor in step
                return None
            if kind == _RST_STREAM:
                return Reset(_stream_id(body))
        except (struct.error, zlib.error, UnicodeDecodeError) as error:
            raise SpdyError(f"bad frame of type {kind}: {error}") from None
        if kind == _PING:
            return Reply(frame)
        return GoneAway() if kind == _GOAWAY else None

    def _headers(self, block: bytes) -> dict[str, str]:
        plain = self._inflate.decompress(block, _MAX_CONTROL)
        if self._inflate.unconsumed_tail:
            raise SpdyError("a header block is too large")
        (count,) = struct.unpack_from("!I", plain)
        texts, offset = [], 4
        for _ in range(2 * count):
            (size,) = struct.unpack_from("!I", plain, offset)
            texts.append(plain[offset + 4 : offset + 4 + size].decode())
            offset += 4 + size
        return {name.lower(): value for name, value in zip(texts[::2], texts[1::2], strict=True)}

    def _header_block(self, headers: Mapping[str, str]) -> bytes:
        plain = struct.pack("!I", len(headers))
        for pair in headers.items():
            for text in pair:
                plain += struct.pack("!I", len(text)) + text.encode()
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def _stream_id(body: bytes) -> int:
    return int(struct.unpack_from("!I", body)[0] & 0x7FFFFFFF)


def _control(kind: int, body: bytes) -> bytes:
    return _HEAD.pack(_CONTROL | kind, len(body)) + body
