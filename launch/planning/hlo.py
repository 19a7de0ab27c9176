"""A compiled program, read from its text: computations, instructions, and how often each runs.

XLA's own cost analysis counts the body of a loop once. Here a loop's body counts as often as the
loop turns: `known_trip_count` where the compiler says it, else what the loop's condition compares
its counter with. A loop whose bound is an argument (how many micro-batches are filled, how many
tokens are drawn) turns as often as the caller says, those within it once unless they have a name.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16,
    "s32": 32, "u32": 32, "s64": 64, "u64": 64, "bf16": 16, "f16": 16, "f32": 32, "f64": 64,
    "c64": 64, "c128": 128, "token": 0, "opaque": 0,
}  # fmt: skip

_ARRAY = re.compile(r"([a-z]+\d*\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%?([\w.-]+)")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .* \{$")
_TAIL = re.compile(r"^\}(?:$|, execution_thread=)")
_BEGINS = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = ")
# Of what the value passes through unchanged, on its way to a loop or out of one.
_SAME = ("copy", "bitcast", "convert", "copy-done", "copy-start", "reshape", "optimization-barrier")


@dataclasses.dataclass(frozen=True)
class Array:
    dtype: str
    dims: tuple[int, ...]
    space: int = 0  # 0: the device's main memory; on a TPU, 1: on the chip; 5: the host's

    @property
    def size(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Without the padding of tiles."""
        bits = BITS.get(self.dtype, 8)  # of the many 8-bit floats
        return -(-self.size * bits // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    opcode: str
    arrays: tuple[Array, ...]  # of its result; several of a tuple, nested ones in a row
    operands: tuple[str, ...]
    attributes: str  # the rest of the line
    literal: str  # between the parentheses, where that is no list of operands
    root: bool

    @property
    def array(self) -> Array:
        return self.arrays[0]

    @property
    def bytes(self) -> int:
        return sum(a.bytes for a in self.arrays)

    @property
    def source(self) -> str:
        """What was traced: `jit(step)/while/body/dot_general`; "" where the compiler made it."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    def attribute(self, name: str) -> str:
        """The value of name=value, up to a comma outside brackets; "" if it has none."""
        found = re.search(rf"(?:^|[ ,]){name}=", self.attributes)
        if not found:
            return ""
        depth, start = 0, found.end()
        for i in range(start, len(self.attributes)):
            c = self.attributes[i]
            depth += (c in "{([") - (c in "})]")
            if c == "," and depth == 0:
                return self.attributes[start:i]
        return self.attributes[start:]

    def called(self) -> tuple[str, ...]:
        """Computations that it runs, but for the small ones of reductions and the like."""
        if self.opcode == "conditional":
            branches = self.attribute("branch_computations").strip("{}")
            names = branches.split(",") if branches else ()
            named = self.attribute("true_computation"), self.attribute("false_computation")
            return tuple(n.strip().lstrip("%") for n in (*names, *named) if n)
        if self.opcode == "while":
            return (self.attribute("body").lstrip("%"),)
        names = [self.attribute("calls")]
        if self.opcode == "call":
            names.append(self.attribute("to_apply"))
        return tuple(n.lstrip("%") for n in names if n)


@dataclasses.dataclass(frozen=True)
class Computation:
    name: str
    instructions: dict[str, Instruction]  # in order

    @property
    def root(self) -> Instruction:
        last = list(self.instructions.values())
        return next((i for i in last if i.root), last[-1])

    @property
    def parameters(self) -> list[Instruction]:
        own = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return sorted(own, key=lambda i: int(i.literal))

    def operand(self, instruction: Instruction, i: int) -> Instruction:
        return self.instructions[instruction.operands[i]]

    def users(self, name: str) -> list[Instruction]:
        return [i for i in self.instructions.values() if name in i.operands]


@dataclasses.dataclass(frozen=True)
class Module:
    computations: dict[str, Computation]
    entry: str


@dataclasses.dataclass(frozen=True)
class Visit:
    """An instruction, and how often a run of the program comes to it."""

    instruction: Instruction
    computation: Computation
    times: float
    fused: bool  # inside a fusion: what it makes need not exist in memory
    place: str  # the computation that it is of, fusions apart


def parse(text: str) -> Module:
    """Of `compiled.as_text()`."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in _lines(text):
        if current is None:
            head = _HEAD.match(line)
            if head:
                current = Computation(head[2], {})
                computations[head[2]] = current
                entry = head[2] if head[1] else entry
        elif _TAIL.match(line):
            current = None
        elif _BEGINS.match(line):
            found = _instruction(line)
            current.instructions[found.name] = found
    return Module(computations, entry)


def _lines(text: str) -> Iterator[str]:
    """Of instructions whole: what a kernel says of itself may have line breaks."""
    whole = ""
    for line in text.splitlines():
        if whole and not (_BEGINS.match(line) or _TAIL.match(line)):
            whole += " " + line
            continue
        if whole:
            yield whole
        whole = line if _BEGINS.match(line) else ""
        if not whole:
            yield line


def _instruction(line: str) -> Instruction:
    left, _, right = line.strip().partition(" = ")
    root = left.startswith("ROOT ")
    shape_end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    shape, rest = right[:shape_end], right[shape_end:].lstrip()
    opcode, _, _ = rest.partition("(")
    end = _closing(rest, len(opcode))
    inside = rest[len(opcode) + 1 : end]
    plain = opcode in ("parameter", "constant")
    operands = () if plain else tuple(_operands(inside))
    attributes = rest[end + 1 :].lstrip(", ")
    name = left.removeprefix("ROOT ").lstrip("%")
    arrays = tuple(_arrays(shape)) or (Array("token", ()),)
    return Instruction(name, opcode, arrays, operands, attributes, inside if plain else "", root)


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"no end of {text[start : start + 80]!r}")


def _operands(inside: str) -> Iterator[str]:
    inside = re.sub(r"/\*.*?\*/", "", inside)
    depth, start = 0, 0
    for i, c in enumerate(inside + ","):
        depth += (c in "{([") - (c in "})]")
        if c == "," and depth == 0:
            # Some compilers write an operand's type before its name.
            last = inside[start:i].split()
            if last and (name := _NAME.fullmatch(last[-1])):
                yield name[1]
            start = i + 1


def _arrays(shape: str) -> Iterator[Array]:
    for dtype, dims, layout in _ARRAY.findall(shape):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(d.lstrip("<=")) for d in dims.split(",") if d)
        yield Array(dtype, sizes, int(space[1]) if space else 0)


def visits(
    module: Module, dynamic: float = 1, named: Mapping[str, float] | None = None
) -> list[Visit]:
    """Everything that a run of the program computes. dynamic: turns of a loop whose bound is an
    argument; named: and of one that was traced in such a scope. Of a conditional, the branch that
    multiplies least: the others are for what is rare (a reference replaced)."""
    return list(_of(module, module.entry, 1.0, (dynamic, named or {}), False, module.entry))


Turns = tuple[float, Mapping[str, float]]


def _of(
    module: Module, name: str, times: float, dynamic: Turns, fused: bool, place: str
) -> Iterator[Visit]:
    computation = module.computations[name]
    for instruction in computation.instructions.values():
        yield Visit(instruction, computation, times, fused, place)
        called = [n for n in instruction.called() if n in module.computations]
        if instruction.opcode == "conditional" and called:
            called = [min(called, key=lambda n: _weight(module, n, dynamic))]
        turns, within = 1.0, dynamic
        if instruction.opcode == "while":
            turns, within = _turns(module, computation, instruction, dynamic)
        inside = instruction.opcode in ("fusion", "async-start")
        for n in called:
            yield from _of(
                module, n, times * turns, within, fused or inside, place if inside else n
            )


def _turns(module: Module, c: Computation, loop: Instruction, dynamic: Turns):
    """How often a loop turns, and what is said of loops within it."""
    found = trips(module, c, loop)
    if found is not None:
        return float(found), dynamic
    usual, named = dynamic
    scopes = re.findall(r"\w+", loop.source)  # within jvp() and transpose(), too
    return next((n for name, n in named.items() if name in scopes), usual), (1.0, named)


def _weight(module: Module, name: str, dynamic: Turns) -> tuple[float, float]:
    """Of a branch: elements of products, and of all results."""
    products = total = 0.0
    for v in _of(module, name, 1.0, dynamic, False, name):
        size = v.times * sum(a.size for a in v.instruction.arrays)
        total += size
        if v.instruction.opcode in ("dot", "convolution", "custom-call"):
            products += size
    return products, total


def trips(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """How often a `while` turns; None if that is not known before it runs."""
    told = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if told:
        return int(told[1])
    condition = module.computations[loop.attribute("condition").lstrip("%")]
    body = module.computations[loop.attribute("body").lstrip("%")]
    compared = _comparison(module, condition)
    if compared is None:
        return None
    left, right, direction = compared
    begin = module_tuple(computation, loop)
    end = body.root if body.root.opcode == "tuple" else None
    if begin is None or end is None or direction not in ("LT", "GT", "LE", "GE"):
        return None
    if direction in ("GT", "GE"):
        left, right, direction = right, left, {"GT": "LT", "GE": "LE"}[direction]
    counter, bound = _element(condition, left), _constant(condition, right)
    if bound is None and (k := _element(condition, right)) is not None:
        bound = _constant(computation, begin.operands[k])
        passed_on = _element(body, end.operands[k]) == k
        bound = bound if passed_on else None
    if counter is None or bound is None:
        return None
    start = _constant(computation, begin.operands[counter])
    step = _step(body, end.operands[counter], counter)
    if start is None or not step or step < 0:
        return None
    return max(0, math.ceil((bound - start + (direction == "LE")) / step))


def module_tuple(computation: Computation, loop: Instruction) -> Instruction | None:
    """The tuple that a loop begins with, where it is one that is made for it."""
    made = computation.operand(loop, 0)
    return made if made.opcode == "tuple" else None


def _comparison(module: Module, condition: Computation) -> tuple[str, str, str] | None:
    """(left, right, direction), named in the condition, also where the comparison is fused."""
    root = condition.root
    while root.opcode in _SAME:
        root = condition.operand(root, 0)
    if root.opcode == "compare":
        return root.operands[0], root.operands[1], root.attribute("direction")
    if root.opcode != "fusion":
        return None
    inner = module.computations[root.called()[0]]
    compare = inner.root
    while compare.opcode in _SAME:
        compare = inner.operand(compare, 0)
    if compare.opcode != "compare":
        return None
    outside = []
    for name in compare.operands:
        made = _through(inner, name)
        if made.opcode != "parameter":
            return None
        outside.append(root.operands[int(made.literal)])
    return outside[0], outside[1], compare.attribute("direction")


def _through(computation: Computation, name: str) -> Instruction:
    """What `name` is, where it comes from."""
    found = computation.instructions[name]
    while found.opcode in _SAME and found.operands:
        found = computation.operand(found, 0)
    return found


def _constant(computation: Computation, name: str) -> int | None:
    found = _through(computation, name)
    if found.opcode != "constant" or not re.fullmatch(r"-?\d+", found.literal):
        return None
    return int(found.literal)


def _element(computation: Computation, name: str) -> int | None:
    """Which element of the loop's tuple `name` is."""
    found = _through(computation, name)
    if found.opcode != "get-tuple-element":
        return None
    return int(found.attribute("index"))


def _step(body: Computation, name: str, counter: int) -> int | None:
    """What a turn adds to the counter."""
    made = _through(body, name)
    if made.opcode != "add":
        return None
    a, b = made.operands
    for counted, added in ((a, b), (b, a)):
        if _element(body, counted) == counter:
            return _constant(body, added)
    return None
