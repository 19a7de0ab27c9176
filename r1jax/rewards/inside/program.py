"""Runs a model's program: whole, or as an object whose names the tests' process may use.

    program.pyc UID CPU MEMORY PROCESSES FILE stdio|objects

Nothing here is trusted, for the program may change all of it. It never holds a test: only the
arguments of the calls that it is asked to make, or its standard input, one run at a time.
"""

import os
import sys

from confine import confine, new_main, silence
from wire import decode, encode, receive, send


def execute(prelude: str, program: str, namespace: dict) -> None:
    """The prelude, then the program; as one text if the program only continues the prelude."""
    try:
        code = compile(program, "<program>", "exec", dont_inherit=True)
    except SyntaxError:
        if not prelude:
            raise
        code = compile(prelude + program, "<program>", "exec", dont_inherit=True)
        prelude = ""
    exec(compile(prelude, "<prelude>", "exec", dont_inherit=True), namespace)
    exec(code, namespace)


def run_stdio() -> None:
    """One run; the standard input is the job and, after it, what the program will read."""
    os.write(1, b"R")
    prelude, program = _job(receive(0))
    execute(prelude, program, new_main("__main__"))


def _job(message: bytes) -> list:
    return decode(message, lambda handle: None)  # type: ignore[return-value]


class Objects:
    """What the program defined, and every object that the tests hold a handle of."""

    def __init__(self) -> None:
        self.namespace = new_main("program")
        self.kept: list = []
        self.handles: dict[int, int] = {}
        self.operations: dict = {
            "load": self.load,
            "name": self.name,
            "call": lambda function, *args, **kwargs: function(*args, **kwargs),
            "method": self.method,
            "getattr": getattr,
            "setattr": setattr,
            "getitem": lambda value, key: value[key],
            "iter": iter,
            "next": next,
            "len": len,
            "bool": bool,
            "str": str,
            "repr": repr,
        }

    def load(self, prelude: str, program: str) -> list[str]:
        execute(prelude, program, self.namespace)
        return [name for name in self.namespace if isinstance(name, str)]

    def name(self, name: str):
        if name not in self.namespace:
            raise NameError(f"the program does not define {name}")
        return self.namespace[name]

    def method(self, function: str, *args):
        """LeetCode's form: of a fresh `Solution`; or of the module, where there is none."""
        if "Solution" in self.namespace:
            return getattr(self.namespace["Solution"](), function)(*args)
        return self.name(function)(*args)

    def refer(self, value: object) -> int:
        if id(value) not in self.handles:  # it is kept, so that its id stays its own
            self.handles[id(value)] = len(self.kept)
            self.kept.append(value)
        return self.handles[id(value)]

    def answer(self, message: bytes) -> bytes:
        operation, args, kwargs = decode(message, self.kept.__getitem__)  # type: ignore[misc]
        try:
            value = self.operations[operation](*args, **kwargs)
            return encode(("value", value), self.refer)
        except BaseException as error:
            return encode(("raise", type(error).__name__, str(error)[:500]), self.refer)


def serve_objects() -> None:
    requests, answers = os.dup(0), os.dup(1)
    silence(0, 1, 2)
    os.write(answers, b"R")
    objects = Objects()
    while True:
        try:
            message = receive(requests)
        except EOFError:  # the tests are done
            os._exit(0)
        send(answers, objects.answer(message))


if __name__ == "__main__":
    confine(*map(int, sys.argv[1:6]))
    if sys.argv[6] == "stdio":
        run_stdio()
    else:
        serve_objects()
