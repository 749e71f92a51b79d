"""Server-sent events as bytes: a stream cut where its events end. Knows nothing of HTTP or of any provider.

Source: the HTML standard, section 9.2 (event streams): an event ends with a blank line. Lines end with LF or CR LF
here; of a stream with the third kind, a lone CR, up to `LONGEST` bytes are held back.
"""

from __future__ import annotations

# An event that is longer than this is passed on in parts: what is held back must be bounded.
LONGEST = 64 * 1024


class Events:
    """Passes bytes on as far as they are whole events. `rest` is the beginning of the next, held back.

    A stream that breaks off in the middle of an event leaves a torso, which a client would try to read as JSON; it
    never gets it. A client can do nothing with half an event, so nothing is late.
    """

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, piece: bytes) -> bytes:
        """What can go on now that `piece` has come; may be empty."""
        data = self.rest + piece if self.rest else piece
        end = max(_after(data, b"\n\n"), _after(data, b"\r\n\r\n"))
        if not end and len(data) > LONGEST:
            end = len(data)
        self.rest = data[end:]
        return data[:end]


def _after(data: bytes, blank: bytes) -> int:
    at = data.rfind(blank)
    return at + len(blank) if at >= 0 else 0
