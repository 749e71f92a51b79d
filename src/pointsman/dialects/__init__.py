"""Wire formats: bytes to a typed view of what we use, and back. No I/O here, so every case can be tested with bytes."""
