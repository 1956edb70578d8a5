"""Sans-IO protocol machines: bytes in, events out, and the reverse. No clock, no socket, nothing asynchronous here."""
