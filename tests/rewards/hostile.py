"""Programs that attack their grader, in three groups. What each must come to is in the group.

@CANARY@, @PORT@ and @PID@ stand for a file, a listening socket and a process outside.
"""

import textwrap

from r1jax.data.problems import Tests

SUM = Tests(stdio=(("2 3\n", "5\n"),))
ADD = Tests(code="assert add(2, 3) == 5\nassert add(-1, 1) == 0", function="add")
CHECK = Tests(
    code="def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-1, 1) == 0",
    function="add",
)
CALLS = Tests(calls=(("[2, 3]", "5"), ("[-1, 1]", "0")), function="add")
LIST = Tests(code="assert list(count(3)) == [0, 1, 2]", function="count")


def _escape(attempt: str) -> str:
    """Prints "refused" if the attempt raises what a refusal raises; anything else is an escape."""
    return (
        "import ctypes, os, resource, signal, socket, subprocess, sys, threading\n"
        "def syscall(*args):\n"
        "    if ctypes.CDLL(None, use_errno=True).syscall(*args) < 0:\n"
        "        raise OSError(ctypes.get_errno(), 'refused')\n"
        "try:\n"
        + textwrap.indent(textwrap.dedent(attempt).strip(), "    ")
        + "\nexcept (OSError, ValueError, ImportError, RuntimeError) as error:\n"
        "    print('refused', file=sys.stdout)\n"
        "else:\n"
        "    print('escaped')\n"
    )


# Each must print "refused" and nothing else.
REFUSED = Tests(stdio=(("", "refused"),))
ESCAPES = {
    name: _escape(attempt)
    for name, attempt in {
        "connect": "socket.create_connection(('127.0.0.1', @PORT@), 1)",
        "raw connect": "syscall(41, 2, 1, 0)",
        "datagram": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', @PORT@))",
        "name lookup": "socket.getaddrinfo('example.com', 80)",
        "abstract socket": "socket.socket(socket.AF_UNIX).connect('\\0r1jax-canary-@PORT@')",
        "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "to the hypervisor": "socket.socket(socket.AF_VSOCK).connect((2, 1))",
        "listen": "socket.create_server(('127.0.0.1', 0))",
        "read a file": "open('@CANARY@').read()",
        "write a file": "open('@CANARY@', 'a').write('x')",
        "delete a file": "os.remove('@CANARY@')",
        "follow a symlink": "os.symlink('@CANARY@', 'link'); open('link').read()",
        "climb": "open('../../../../../../../../..' + '@CANARY@').read()",
        "hard link": "os.link(os.__file__, '/tmp/x')",
        "passwords": "open('/etc/passwd').read()",
        "shadow": "open('/etc/shadow').read()",
        "home": "open(os.path.expanduser('~root/.profile')).read()",
        "list homes": "os.listdir('/home')",
        "list root's home": "os.listdir('/root')",
        "write to the root": "open('/x', 'w')",
        "write to /usr": "open('/usr/lib/x', 'w')",
        "write to /dev": "open('/dev/x', 'w')",
        "write to /dev/shm": "open('/dev/shm/x', 'w')",
        "write to the interpreter": "open(os.__file__, 'a')",
        "write to the runner": "open('/inside/program.pyc', 'a')",
        "swap the runner": "os.rename('/inside/program.pyc', '/tmp/x')",
        "own environment": "open('/proc/self/environ').read()",
        "processes": "os.listdir('/proc')",
        "memory of process 1": "open('/proc/1/mem', 'r+b')",
        "kernel settings": "open('/sys/kernel/mm/transparent_hugepage/enabled').read()",
        "devices": "open('/dev/kmsg')",
        "terminal": "os.open('/dev/tty', os.O_RDWR)",
        "pseudo-terminal": "os.openpty()",
        "kill a process": "os.kill(@PID@, signal.SIGKILL)",
        "watch a process": "os.pidfd_open(@PID@)",
        "fork": "os.fork()",
        "raw fork": "syscall(57)",
        "raw vfork": "syscall(58)",
        "raw clone": "syscall(56, 17, 0, 0, 0, 0)",
        "raw clone3": "syscall(435, ctypes.create_string_buffer(88), 88)",
        "spawn": "os.posix_spawn(sys.executable, ['python'], {})",
        "subprocess": "subprocess.run([sys.executable, '-c', ''])",
        "shell": "if os.system('true') != 0: raise OSError",
        "multiprocessing": "import multiprocessing as m; m.get_context('fork').Process().start()",
        "trace": "syscall(101, 0, 0, 0, 0)",
        "read the memory of another": "syscall(310, 1, 0, 0, 0, 0, 0)",
        "new user namespace": "syscall(272, 0x10000000)",
        "enter a namespace": "syscall(308, 0, 0)",
        "mount": "syscall(165, b'none', b'/tmp', b'tmpfs', 0, 0)",
        "chroot": "os.chroot('/tmp')",
        "become root": "os.setuid(0)",
        "become another": "os.setuid(1000)",
        "node": "os.mknod('/tmp/x', 0o20666, os.makedev(1, 1))",
        "file in memory": "os.memfd_create('x')",
        "shared memory": "syscall(29, 0, 1 << 30, 0o1666)",
        "keys": "syscall(250, 0, -3, 1)",
        "bpf": "syscall(321, 0, 0, 0)",
        "io_uring": "syscall(425, 8, ctypes.create_string_buffer(120))",
        "perf": "syscall(298, 0, 0, -1, -1, 0)",
        "userfaultfd": "syscall(323, 0)",
        "host name": "socket.sethostname('x')",
        "clock": "import time; time.clock_settime(time.CLOCK_REALTIME, 0)",
        "priority": "os.nice(-5)",
        "real time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
        "raise a limit": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "raise the CPU limit": "resource.setrlimit(resource.RLIMIT_CPU, (9, 9))",
        "big file": "open('x', 'wb').write(bytes(2**27))",
        "many files": "for i in range(64): open(str(i), 'wb').write(bytes(2**20))",
        "many descriptors": "files = [os.dup(0) for _ in range(1000)]",
        "many threads": """
            threading.stack_size(32768)
            stop = threading.Event()
            try:
                for _ in range(1000): threading.Thread(target=stop.wait).start()
            finally:
                stop.set()
            """,
        "inherited descriptors": """
            for fd in range(3, 1024):
                try: os.fstat(fd)
                except OSError: continue
                break
            else: raise OSError
            """,
        "environment": """
            known = {'HOME', 'TMPDIR', 'PYTHONHASHSEED', 'PWD', 'LC_CTYPE', 'LD_LIBRARY_PATH'}
            if set(os.environ) <= known: raise OSError
            """,
        "the grader's code": "import r1jax",
    }.items()
}

# Each must be incorrect, within its limits.
RESOURCES = {
    "loop": "while True: pass",
    "loop that catches all": """
while True:
    try:
        while True: pass
    except BaseException: pass
""",
    "loop that ignores signals": """
import signal
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
while True: pass
""",
    "loops in threads": """
import threading
def work():
    while True: pass
for _ in range(8): threading.Thread(target=work).start()
""",
    "sleep": "import time; time.sleep(10**6)",
    "answer, then sleep": "import time; print(5, flush=True); time.sleep(10**6)",
    "answer, then close, then sleep": """
import os, time
print(5, flush=True)
os.close(0); os.close(1); os.close(2)
time.sleep(10**6)
""",
    "answer, then a thread that stays": """
import threading, time
threading.Thread(target=time.sleep, args=(10**6,)).start()
print(5)
""",
    "answer, then crash": "print(5, flush=True); import os; os.abort()",
    "answer, then fail": "print(5); raise SystemExit(1)",
    "stop": "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
    "kill all": "import os, signal; os.kill(-1, signal.SIGKILL)",
    "kill the group": "import os, signal; os.kill(0, signal.SIGKILL)",
    "kill process 1": """
import os, signal
for number in range(1, 65):
    try: os.kill(1, number)
    except OSError: pass
""",
    "kill the parent": """
import os, signal
try: os.kill(os.getppid(), signal.SIGKILL)
except OSError: pass
""",
    "fork bomb": """
import os
while True:
    try: os.fork()
    except OSError: pass
""",
    "zombies": """
import os
for _ in range(1000):
    if os.fork() == 0: os._exit(0)
""",
    "thread bomb": """
import threading
threading.stack_size(32768)
def bomb():
    while True:
        try: threading.Thread(target=bomb).start()
        except RuntimeError: pass
bomb()
""",
    "memory bomb": "x = [0]\nwhile True: x += x",
    "memory bomb that catches": """
x = []
while True:
    try: x.append(bytearray(2**20))
    except MemoryError: pass
""",
    "mapped memory": """
import mmap
maps = [mmap.mmap(-1, 2**26) for _ in range(1000)]
for m in maps: m.write(bytes(2**26))
""",
    "decompression bomb": "import zlib; d = zlib.decompressobj(); x = bytes(10**11)",
    "endless output": "while True: print('x' * 1000)",
    "endless output of one line": "import os\nwhile True: os.write(1, b'x' * 65536)",
    "endless errors": "import sys\nwhile True: sys.stderr.write('x' * 1000)",
    "too much output": "print('5\\n' * 10**7)",
    "power": "print(9**9**9)",
    "digits of a huge integer": "print(7 ** 5_000_000)",
    "factorial": "import math; math.factorial(10**7)",
    "catastrophic regex": "import re; re.match(r'(a|a)*b', 'a' * 60)",
    "recursion": "def f(): f()\nf()",
    "unbounded recursion": """
import sys
sys.setrecursionlimit(2**31 - 1)
class A:
    def __repr__(self): return repr(self)
repr(A())
""",
    "deep nesting": "x = " + "(" * 100_000 + ")" * 100_000,
    "deep lists": "x = " + "[" * 5_000 + "]" * 5_000,
    "deep operators": "x = " + "-" * 100_000 + "1",
    "long expression": "x = " + "+".join(["1"] * 50_000),
    "null byte": "print(5)\0",
    "surrogate": "print('\ud800')",
    "no program": "",
    "not Python": "The answer is five.",
    "stuck input": "import sys\nwhile True: sys.stdin.read()",
    "stuck pipe": "import os; os.mkfifo('pipe'); open('pipe').read()",
    "stuck reading": "open('/dev/zero', 'rb').read()",
    "pause": "import signal; signal.pause()",
    "crash": "import ctypes; ctypes.string_at(0)",
    "foreign system calls": "import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 57)",
    "lock": "import threading; l = threading.Lock(); l.acquire(); l.acquire()",
    "nothing": "import sys; sys.exit(0)",
    "read the tests": """
import os
for folder, _, files in os.walk('/'):
    for name in files:
        if folder in ('/', '/tmp', '/inside') and name.endswith('.py'):
            print(open(folder + '/' + name).read())
""",
}

_WRONG = "def add(a, b): return a - b\n"

# Each must be incorrect: a program that is wrong and meddles with its tests.
TAMPERING = {
    "exit": (ADD, "import sys; sys.exit(0)"),
    "exit in a call": (ADD, "import sys\ndef add(a, b): sys.exit(0)"),
    "exit in a check": (CHECK, "import sys\ndef add(a, b): sys.exit(0)"),
    "exit in a call of JSON": (CALLS, "import sys\ndef add(a, b): sys.exit(0)"),
    "hard exit": (ADD, "import os; os._exit(0)"),
    "hard exit in a call": (CHECK, "import os\ndef add(a, b): os._exit(0)"),
    "hard exit at once": (SUM, "import os; os._exit(0)"),
    "hard exit where an error is awaited": (
        Tests(code="try: add(1, 'a')\nexcept Exception: pass\nelse: assert False", function="add"),
        "import os\ndef add(a, b): os._exit(0)",
    ),
    "keyboard interrupt": (CHECK, "def add(a, b): raise KeyboardInterrupt"),
    "generator exit": (CHECK, "def add(a, b): raise GeneratorExit"),
    "equal to all": (
        ADD,
        "class Any:\n    def __eq__(self, other): return True\ndef add(a, b): return Any()",
    ),
    "equal to all, JSON": (
        CALLS,
        "class Any(int):\n    def __eq__(self, other): return True\ndef add(a, b): return Any(7)",
    ),
    "equal integer": (
        CHECK,
        "class Any(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
        "def add(a, b): return Any(7)",
    ),
    "equal list": (
        LIST,
        "class Any(list):\n    def __eq__(self, other): return True\n"
        "def count(n): return Any([7])",
    ),
    "equal text": (
        Tests(code="assert name() == 'x'", function="name"),
        "class Any(str):\n    def __eq__(self, other): return True\ndef name(): return Any('y')",
    ),
    "equal items": (
        LIST,
        "class Any:\n    def __eq__(self, other): return True\ndef count(n): return [Any()] * n",
    ),
    "subtracts to nothing": (
        Tests(code="assert abs(half(3) - 1.5) < 1e-6", function="half"),
        "class Any(float):\n    def __sub__(self, other): return 0.0\n"
        "def half(x): return Any(9.0)",
    ),
    "claims to be an integer": (
        ADD,
        "class Any:\n    __class__ = int\n    def __eq__(self, other): return True\n"
        "def add(a, b): return Any()",
    ),
    "metaclass": (
        ADD,
        "class M(type):\n    def __eq__(self, other): return True\n    __hash__ = type.__hash__\n"
        "class Any(metaclass=M): pass\ndef add(a, b): return Any",
    ),
    "not a number": (ADD, "def add(a, b): return float('nan')"),
    "patched assertion": (
        CHECK,
        "import builtins\nclass E(Exception): pass\nbuiltins.AssertionError = E\n" + _WRONG,
    ),
    "patched built-ins": (
        Tests(code="assert len(count(3)) == 3 and sum(count(3)) == 3", function="count"),
        "import builtins\nbuiltins.len = builtins.sum = lambda x: 3\ndef count(n): return [7]",
    ),
    "built-ins of its own": (
        Tests(code="assert sorted(count(3)) == [0, 1, 2]\nassert set(count(3)) == {0, 1, 2}"),
        "def sorted(x): return [0, 1, 2]\ndef set(x): return {0, 1, 2}\n"
        "def count(n): return [7]",
    ),
    "deleted built-ins": (
        CHECK,
        "import builtins\nvars(builtins).clear()\n",
    ),
    "patched library": (
        Tests(code="import math\nassert math.isclose(half(3), 1.5)", function="half"),
        "import math\nmath.isclose = lambda *a: True\ndef half(x): return 9.0",
    ),
    "library of its own": (
        Tests(code="assert math.isclose(half(3), 1.5)", function="half"),
        "class math:\n    isclose = staticmethod(lambda *a: True)\ndef half(x): return 9.0",
    ),
    "patched unittest": (
        Tests(
            code="import unittest\n"
            "def check(candidate):\n    unittest.TestCase().assertEqual(candidate(2, 3), 5)",
            function="add",
        ),
        "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\n" + _WRONG,
    ),
    "check of its own": (CHECK, "def check(candidate): pass\n" + _WRONG),
    "helper of its own": (
        Tests(
            code="def check(candidate):\n    assert poly(candidate(4)) == 0",
            function="zero",
            prelude="def poly(x):\n    return x - 3\n\ndef zero(a):\n    ''' A zero of poly. '''\n",
        ),
        "def poly(x): return 0\ndef zero(a): return 8",
    ),
    "stack frames": (
        CHECK,
        "import sys\n"
        "def add(a, b):\n"
        "    frame = sys._getframe()\n"
        "    while frame:\n"
        "        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):\n"
        "            if 'assert' in repr(value): return 5 if a == 2 else 0\n"
        "        frame = frame.f_back\n",
    ),
    "all objects": (
        CHECK,
        "import gc\nword = 'candid', 'ate(2'\n"
        "def add(a, b):\n"
        "    for value in gc.get_objects():\n"
        "        for item in gc.get_referents(value):\n"
        "            if isinstance(item, (str, bytes)) and ''.join(word) in str(item):\n"
        "                return 5 if a == 2 else 0\n",
    ),
    "hooked runner": (
        ADD,
        "import sys\nfor name in ('wire', 'confine', '__main__'):\n"
        "    for key, value in list(vars(sys.modules[name]).items()):\n"
        "        if callable(value): setattr(sys.modules[name], key, lambda *a: b'correct')\n"
        + _WRONG,
    ),
    "verdicts on every descriptor": (
        ADD,
        "import os\nfor fd in range(256):\n    for text in (b'Rcorrect\\n', b'correct\\n'):\n"
        "        try: os.write(fd, text)\n        except OSError: pass\n" + _WRONG,
    ),
    "verdict as output": (SUM, "print('Rcorrect'); print('correct')"),
    "forged answers": (
        ADD,
        "import os\n"
        "value = b't2;s5;valueT'\n"
        "for fd in range(3, 256):\n"
        "    try: os.write(fd, (b'%016x' % len(value) + value) * 9)\n"
        "    except OSError: pass\n" + _WRONG,
    ),
    "endless message": (
        ADD,
        "import os\nfor fd in range(3, 256):\n"
        "    try: os.write(fd, b'f' * 16)\n    except OSError: pass\n" + _WRONG,
    ),
    "lying message": (
        ADD,
        "import os\nvalue = b'lffffffffff;'\nfor fd in range(3, 256):\n"
        "    try: os.write(fd, b'%016x' % len(value) + value)\n"
        "    except OSError: pass\n" + _WRONG,
    ),
    "deep message": (
        ADD,
        "import os\nvalue = b'l1;' * 10**6\nfor fd in range(3, 256):\n"
        "    try: os.write(fd, b'%016x' % len(value) + value)\n"
        "    except OSError: pass\n" + _WRONG,
    ),
    "deep result": (
        ADD,
        "def add(a, b):\n    x = 5\n    for _ in range(10**5): x = [x]\n    return x",
    ),
    "result in itself": (ADD, "def add(a, b):\n    x = []\n    x.append(x)\n    return x"),
    "huge result": (ADD, "def add(a, b): return 'x' * 2**27"),
    "result that blows up": (
        ADD,
        "def add(a, b):\n    x = []\n    for _ in range(60): x = [x, x]\n    return x",
    ),
    "huge integer": (ADD, "def add(a, b): return 1 << 10**9"),
    "endless iterator": (LIST, "import itertools\ndef count(n): return itertools.count()"),
    "holds all": (
        Tests(code="assert 7 in count(3)", function="count"),
        "class Any:\n    def __contains__(self, x): return True\n"
        "    def __iter__(self): return iter([0])\ndef count(n): return Any()",
    ),
    "iterator that lies": (
        LIST,
        "class Any:\n    def __iter__(self): return iter([0, 1, 2, 3])\n"
        "    def __len__(self): return 3\n    def __eq__(self, other): return True\n"
        "def count(n): return Any()",
    ),
    "exception that cannot be shown": (
        CHECK,
        "class E(Exception):\n    def __str__(self): raise SystemExit(0)\n"
        "def add(a, b): raise E",
    ),
    "exception by the name of an exit": (
        CHECK,
        "class SystemExit(Exception): pass\ndef add(a, b): raise SystemExit(0)",
    ),
    "late thread": (
        ADD,
        "import os, threading\nthreading.Timer(0.1, os._exit, (0,)).start()\n"
        "def add(a, b):\n    while True: pass",
    ),
    "traced": (
        CHECK,
        "import sys\nsys.settrace(lambda *a: sys.exit(0))\nsys.setprofile(lambda *a: None)\n"
        + _WRONG,
    ),
    "endless call": (CHECK, "def add(a, b):\n    while True: pass"),
    "endless definition": (ADD, "while True: pass"),
    "prelude only": (
        Tests(
            code="def check(candidate):\n    assert candidate(2) == 4",
            function="double",
            prelude='def double(x):\n    """ Twice x. """\n',
        ),
        "",
    ),
}  # fmt: skip
