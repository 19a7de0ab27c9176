"""Plain data as bytes, both ways: what may pass between a program and its tests.

Decoding builds values of exactly the built-in types and nothing else, so that no `__eq__`,
subclass or reduction of a hostile sender ever runs (as with pickle), and keeps what JSON loses:
tuples, sets, bytes, complex numbers, ranges, infinities, types, keys that are not text. Any other
object crosses as a handle: a number that only the side that keeps the object can resolve.
"""

import os
from collections.abc import Callable

ENDED = "the program ended"  # what the tests then say
MAX_MESSAGE = 64 * 2**20  # bytes; a longer one is refused before it is read

_SEQUENCES = {b"l": list, b"t": tuple, b"e": set, b"z": frozenset}
_TYPES = {
    kind.__name__: kind
    for kind in (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict, object)
}
_TEXTS = {b"s": str, b"b": bytes, b"y": bytearray}


def encode(value: object, refer: Callable[[object], int]) -> bytes:
    """Subclasses of built-in types become their base; `refer` gives other objects' handles."""
    parts: list[bytes] = []
    _put(value, parts.append, refer)
    return b"".join(parts)


def _put(value, write: Callable[[bytes], None], refer: Callable[[object], int]) -> None:
    if value is None or value is True or value is False:
        write({None: b"N", True: b"T", False: b"F"}[value])
    elif isinstance(value, int):
        write(b"i%x;" % value)  # hexadecimal: linear in the digits
    elif isinstance(value, float):
        write(b"f%s;" % float.hex(value).encode())
    elif isinstance(value, (str, bytes, bytearray)):
        tag = b"s" if isinstance(value, str) else b"b" if isinstance(value, bytes) else b"y"
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        write(b"%s%x;%s" % (tag, len(data), data))
    elif isinstance(value, (list, tuple, set, frozenset)):
        tag = next(tag for tag, kind in _SEQUENCES.items() if isinstance(value, kind))
        write(b"%s%x;" % (tag, len(value)))
        for item in value:
            _put(item, write, refer)
    elif isinstance(value, dict):
        write(b"d%x;" % len(value))
        for key, item in dict.items(value):
            _put(key, write, refer)
            _put(item, write, refer)
    elif isinstance(value, complex):
        write(b"c%s;%s;" % (float.hex(value.real).encode(), float.hex(value.imag).encode()))
    elif isinstance(value, range):
        write(b"r%x;%x;%x;" % (value.start, value.stop, value.step))
    elif any(value is kind for kind in _TYPES.values()):
        write(b"k%s;" % value.__name__.encode())
    else:
        write(b"h%x;" % refer(value))


def decode(data: bytes, resolve: Callable[[int], object]) -> object:
    """Raises LookupError, ValueError, TypeError or RecursionError for what is no value."""
    value, end = _take(data, 0, resolve)
    if end != len(data):
        raise ValueError("more bytes than a value has")
    return value


def _take(data: bytes, at: int, resolve: Callable[[int], object]) -> tuple[object, int]:
    tag = data[at : at + 1]
    at += 1
    if tag in (b"N", b"T", b"F"):
        return {b"N": None, b"T": True, b"F": False}[tag], at
    field, at = _field(data, at)
    if tag == b"i":
        return int(field, 16), at
    if tag == b"f":
        return float.fromhex(field), at
    if tag == b"c":
        imaginary, at = _field(data, at)
        return complex(float.fromhex(field), float.fromhex(imaginary)), at
    if tag == b"r":
        stop, at = _field(data, at)
        step, at = _field(data, at)
        return range(int(field, 16), int(stop, 16), int(step, 16)), at
    if tag == b"k":
        return _TYPES[field], at
    if tag == b"h":
        return resolve(int(field, 16)), at
    size = int(field, 16)
    if not 0 <= size <= len(data) - at:
        raise ValueError("a length beyond the end of the message")
    if tag in _TEXTS:
        piece = data[at : at + size]
        text = piece.decode("utf-8", "surrogatepass") if tag == b"s" else _TEXTS[tag](piece)
        return text, at + size
    if tag not in _SEQUENCES and tag != b"d":
        raise ValueError("an unknown tag")
    items = []
    for _ in range(2 * size if tag == b"d" else size):
        item, at = _take(data, at, resolve)
        items.append(item)
    if tag == b"d":
        return dict(zip(items[::2], items[1::2], strict=True)), at
    return _SEQUENCES[tag](items), at


def _field(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b";", at)
    return data[at:end].decode("ascii"), end + 1


def frame(message: bytes) -> bytes:
    return b"%016x" % len(message) + message


def send(fd: int, message: bytes) -> None:
    view = memoryview(frame(message))
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int) -> bytes:
    """The next message. Raises EOFError if the other side is gone, ValueError if it is too long."""
    size = int(_read(fd, 16), 16)
    if not 0 <= size <= MAX_MESSAGE:
        raise ValueError(f"a message over {MAX_MESSAGE} bytes")
    return _read(fd, size)


def _read(fd: int, size: int) -> bytes:
    # Exactly: what follows the first message on a standard input is the program's own.
    data = bytearray()
    while len(data) < size:
        piece = os.read(fd, size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)
