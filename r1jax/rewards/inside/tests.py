"""Runs the tests of one program, which itself runs in another sandbox, and writes the verdict.

    tests.pyc UID CPU MEMORY PROCESSES FILE REQUESTS ANSWERS

REQUESTS and ANSWERS are descriptors: pipes to and from the program. The job comes on standard
input; the verdict, which the program's process has no descriptor for, goes to standard output:
"R" once started, then an outcome, a line break and the reason. Whatever the program's process
sends is only ever plain data, or a handle that equals nothing.
"""

import os
import sys

from compare import same
from confine import confine, new_main, silence
from wire import ENDED, decode, encode, receive, send


class ProgramError(Exception):
    """An exception of a type that the program defined."""


class Program:
    """The other side. What breaks the conversation decides at once: no test can catch it."""

    def __init__(self, requests: int, answers: int, verdict: int):
        self.requests = requests
        self.answers = answers
        self.verdict = verdict
        self.remotes: dict[int, Remote] = {}

    def finish(self, outcome: str, detail: str):
        text = f"{outcome}\n{detail}"[:2000].encode("utf-8", "backslashreplace")
        os.write(self.verdict, text)
        os._exit(0)

    def ask(self, operation: str, *args, **kwargs):
        message = encode((operation, args, kwargs), self._refer)
        try:
            send(self.requests, message)
            answer = decode(receive(self.answers), self._remote)
            kind, *rest = answer  # type: ignore[misc]
            if kind == "value":
                (value,) = rest
                return value
            name, text = rest
            error = _exception(name, text)
        except (EOFError, BrokenPipeError):
            self.finish("incorrect", ENDED)
        except Exception as broken:
            self.finish("incorrect", f"unreadable result: {type(broken).__name__}: {broken}")
        raise error

    def _refer(self, value: object) -> int:
        if not isinstance(value, Remote):
            self.finish("failed", f"the tests pass a {type(value).__name__} to the program")
        return value._handle  # type: ignore[attr-defined]

    def _remote(self, handle: int) -> "Remote":
        if handle not in self.remotes:  # one Remote for each object: `is` works
            self.remotes[handle] = Remote(self, handle)
        return self.remotes[handle]


class Remote:
    """An object that only the program has. Equal to itself alone."""

    __slots__ = ("_handle", "_program")

    def __init__(self, program: Program, handle: int):
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_handle", handle)

    def __getattr__(self, name: str):
        return self._program.ask("getattr", self, name)

    def __setattr__(self, name: str, value: object) -> None:
        self._program.ask("setattr", self, name, value)

    def __call__(self, *args, **kwargs):
        return self._program.ask("call", self, *args, **kwargs)

    def __getitem__(self, key):
        return self._program.ask("getitem", self, key)

    # `in` goes through this, too: a container that claims to hold all would otherwise be believed.
    def __iter__(self):
        return self._program.ask("iter", self)

    def __next__(self):
        return self._program.ask("next", self)

    # The interpreter itself refuses results of these that are not of the right type.
    def __len__(self) -> int:
        return self._program.ask("len", self)

    def __bool__(self) -> bool:
        return self._program.ask("bool", self)

    def __str__(self) -> str:
        return self._program.ask("str", self)

    def __repr__(self) -> str:
        return self._program.ask("repr", self)


def _exception(name: object, text: object) -> Exception:
    kind = vars(sys.modules["builtins"]).get(name) if isinstance(name, str) else None
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:  # UnicodeDecodeError and its kin take more
            pass
    return ProgramError(f"{name}: {text}")


def run_code(program: Program, job: dict, defined: list[str]) -> None:
    """HumanEval's `check(candidate)`, MBPP's asserts."""
    code = compile(job["code"], "<tests>", "exec", dont_inherit=True)
    used, function = names_used(code), job["function"]
    namespace = new_main("tests")
    if any(name in job["prelude"] for name in used - {function}):
        try:  # noqa: SIM105 (contextlib takes 3 ms to load)
            exec(compile(job["prelude"], "<prelude>", "exec", dont_inherit=True), namespace)
        except SyntaxError:  # only the program completes it
            pass
    if function:
        namespace[function] = program.ask("name", function)
    bind(program, namespace, used, set(defined), bool(function))
    exec(code, namespace)
    check = namespace.get("check")
    if function and callable(check) and not isinstance(check, Remote):
        check(namespace[function])


def bind(program: Program, namespace: dict, used: set, defined: set, has_function: bool) -> None:
    """Gives the tests those of the program's names that they use and nobody trusted defines.

    A program may not replace what its tests rely on: built-in functions and the standard library
    stay the tests' own, whatever the program calls by these names. Only where the tests would then
    use nothing of the program is a built-in name the program's (MBPP 126 asks for a `sum`).
    """
    unbound = used - namespace.keys()
    modules = unbound & sys.stdlib_module_names
    for name in modules:
        namespace[name] = __import__(name)
    builtins = vars(sys.modules["builtins"]).keys()
    wanted = (unbound - modules - builtins) & defined
    if not (wanted or has_function):
        wanted = unbound & builtins & defined
    for name in wanted:
        namespace[name] = program.ask("name", name)


def names_used(code) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, type(code)):
            names |= names_used(constant)
    return names


def run_calls(program: Program, job: dict) -> None:
    for number, (args, expected) in enumerate(job["calls"], start=1):
        got = program.ask("method", job["function"], *args)
        if not same(got, expected):
            program.finish("incorrect", f"call {number}: wrong result")


def run(program: Program, job: dict) -> None:
    try:
        if os.read(program.answers, 1) != b"R":
            program.finish("failed", "the program's sandbox did not start")
        try:
            defined = program.ask("load", job["prelude"], job["program"])
            if job["code"]:
                run_code(program, job, defined)
            else:
                run_calls(program, job)
        except BaseException as error:
            program.finish("incorrect", _reason(error, job["code"]))
        program.finish("correct", "")
    finally:
        os._exit(1)


def _reason(error: BaseException, code: str) -> str:
    text = f"{type(error).__name__}: {error}"
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            line = trace.tb_lineno
        trace = trace.tb_next
    if not line:
        return text
    return f"tests, line {line} ({code.splitlines()[line - 1].strip()}): {text}"


if __name__ == "__main__":
    confine(*map(int, sys.argv[1:6]))
    verdict = os.dup(1)
    os.write(verdict, b"R")
    job = decode(receive(0), lambda handle: None)
    silence(0, 1)
    requests, answers = map(int, sys.argv[6:8])
    run(Program(requests, answers, verdict), job)  # type: ignore[arg-type]
