"""What went wrong, as the one line that a command ends with."""

import errno
import functools
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax

from r1jax.checks import InputError

# How XLA's errors begin, whatever Python raises them as.
_STATUS = re.compile(
    "(ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|UNAVAILABLE|UNKNOWN): "
)
_FULL = "No space left on device"  # as the system, and libraries that write for us, put it


def one_line(error: Exception) -> str | None:
    """Bad input, a file that cannot be used, or a full disk; None for what is a bug."""
    full = next((e for e in _causes(error) if _is_full(e)), None)
    if full is not None:
        named = full.filename if isinstance(full, OSError) else None
        quoted = re.search(r'"(/[^"]+)"', str(full))
        where = named or (quoted[1] if quoted else "")
        return (
            f"{where and f'{where}: '}no space left on the disk; what was complete before is kept"
        )
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) if isinstance(error, OSError) else None


def is_of_a_collective(error: BaseException) -> bool:
    """Whether it came from what several processes do together, which fails where one is gone: JAX
    raises some of it as ValueError, and Orbax's callers may have put it into words of their own."""
    return any(
        isinstance(e, jax.errors.JaxRuntimeError) or _STATUS.match(str(e)) for e in _causes(error)
    )


def _is_full(error: BaseException) -> bool:
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or _FULL in str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it came from or that it groups."""
    left, seen = [error], set()
    while left:
        one = left.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            grouped = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
            left += [e for e in (*grouped, one.__cause__, one.__context__) if e is not None]


@functools.cache
def quiet_when_full() -> None:
    """Keeps the threads that write checkpoints and events from printing what `one_line` says once:
    each part that does not fit has a traceback of its own, and so has what waited for it."""

    def is_news(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        full = error is not None and any(map(_is_full, _causes(error)))
        return not full and _FULL not in record.getMessage()

    def unless_full(shown: Callable[[Any], object]) -> Callable[[Any], object]:
        def hook(what: Any) -> None:
            # TensorStore calls back to a loop, TensorBoard's thread reads a queue, that has ended.
            late = str(what.exc_value) in ("Event loop is closed", "handle is closed")
            if not late and not any(map(_is_full, _causes(what.exc_value))):
                shown(what)

        return hook

    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(is_news)
    sys.unraisablehook = unless_full(sys.unraisablehook)
    threading.excepthook = unless_full(threading.excepthook)
