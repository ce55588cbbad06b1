"""How commands are written to a server."""

from __future__ import annotations


class Packer:
    """Packs commands, in the place of the client's own ways to do so.

    With hiredis installed the client packs in C, where an interrupt (Ctrl-C) that is pending while
    a number is written ends the process: hiredis 3.5.0 does not look whether that failed.
    """

    def pack(self, *command: bytes | str | float) -> list[bytes]:
        """A command as it is sent; its name may be of several words."""
        name, *arguments = command
        words = (name if isinstance(name, bytes) else str(name).encode()).split()
        parts = [*words, *(one if type(one) is bytes else _written(one) for one in arguments)]
        written = [b"$%d\r\n%b\r\n" % (len(one), one) for one in parts]
        return [b"*%d\r\n%b" % (len(parts), b"".join(written))]


def _written(argument: object) -> bytes:
    if isinstance(argument, str):
        return argument.encode()
    if isinstance(argument, (bytes, bytearray, memoryview)):
        return bytes(argument)
    return str(argument).encode()
