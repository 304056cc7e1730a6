# ruff: noqa: E501 - programs are written on one line
"""A program is judged as plain Python judges it, though its tests run in a process of their own."""

import decimal
import re
import sys
import types

import pytest

from opdlab_evaluators.programs.extraction import definitions
from opdlab_evaluators.programs.judging import Assertions, judge
from opdlab_evaluators.sandbox.process import Limits

LIMITS = Limits(cpu_s=10, wall_s=60)

POINT = """
class P:
    X = 3
    def __init__(self, x=0): self.x = x
    def __eq__(self, other): return isinstance(other, P) and self.x == other.x
    def __hash__(self): return hash(self.x)
    def __lt__(self, other): return self.x < other.x
    def __add__(self, other): return P(self.x + (other.x if isinstance(other, P) else other))
    def __radd__(self, other): return P(self.x + other)
    def __contains__(self, value): return value == self.x
    def __repr__(self): return f'P({self.x})'
    def __len__(self): return self.x
    def __getitem__(self, i): return self.x * i
    def __call__(self, y): return self.x + y
    def __enter__(self): return self
    def __exit__(self, *_): self.x = -1
    def __neg__(self): return P(-self.x)
    def __bool__(self): return self.x > 0
    @staticmethod
    def g(): return 3
    @classmethod
    def make(cls, x): return cls(x)
    @property
    def double(self): return 2 * self.x
"""
COLOURS = "from enum import Enum, IntEnum\nclass C(Enum):\n    RED = 1\n    BLUE = 2\nclass N(IntEnum):\n    A = 1\n    B = 2\n"
STACK = "class Stack(list):\n    def push(self, x): self.append(x)\n    def top(self): return self[-1]\n"
ERRORS = "class Bad(ValueError):\n    def __init__(self, code):\n        super().__init__(f'code {code}')\n        self.code = code\ndef f(code): raise Bad(code)\n"

# Program and tests; plain Python says what is right.
CASES = {
    "a list of the library's own": (
        "from collections import UserList\nKEPT = UserList([1])\ndef f(n):\n    KEPT.append(n)\n    return KEPT",
        "x = f(3)\nassert x == [1, 3] and x.data == [1, 3]\nx.append(5)\nassert f(4) == [1, 3, 5, 4]",
    ),
    "random numbers that the tests seed": (
        "import random\ndef f(n): return [random.randint(1, 100) for _ in range(n)]",
        "import random\nrandom.seed(42)\nassert f(3) == [82, 15, 4]\nrandom.seed(7)\na = f(2)\n"
        "random.seed(7)\nassert f(2) == a",
    ),
    "an argument changed in place": ("def f(a): a.sort()", "a = [3, 1]\nassert f(a) is None\nassert a == [1, 3]"),
    "and not changed": ("def f(a): sorted(a)", "a = [3, 1]\nf(a)\nassert a == [1, 3]"),
    "a nested one": ("def f(a): a[0][0] = 9; a.append(a[0])", "a = [[1], 2]\nf(a)\nassert a == [[9], 2, [9]]\nassert a[0] is a[2]"),
    "a dictionary": ("def f(d): d['k'] = d.pop('j')", "d = {'j': 1}\nf(d)\nassert d == {'k': 1}"),
    "a set": ("def f(s): s.discard(1)", "s = {1, 2}\nf(s)\nassert s == {2}"),
    "bytes that change": ("def f(b): b[0] = 65", "b = bytearray(b'xy')\nf(b)\nassert b == b'Ay'"),
    "a deque": ("def f(d): d.rotate(1); return d", "from collections import deque\nd = deque([1, 2, 3], 3)\nassert f(d) is d\nassert d == deque([3, 1, 2]) and d.maxlen == 3"),
    "returned itself": ("def f(a): a.pop(); return a", "a = [3, 1]\nassert f(a) is a and a == [3]"),
    "kept and changed later": ("K = []\ndef keep(a): K.append(a)\ndef change(): K[0].append(9)", "a = [1]\nkeep(a)\nchange()\nassert a == [1, 9]\na.append(5)\nchange()\nassert a == [1, 9, 5, 9]"),
    "one list twice": ("def f(a, b): return a is b", "a = []\nassert f(a, a) and not f(a, [])"),
    "rows that are one": ("def f(n): return [[0] * n] * n", "g = f(2)\ng[0][0] = 1\nassert g == [[1, 0], [1, 0]]"),
    "rows that are several": ("def f(n): return [[0] * n for _ in range(n)]", "g = f(2)\ng[0][0] = 1\nassert g == [[1, 0], [1, 0]]"),
    "a cycle": ("def f():\n    a = [1]\n    a.append(a)\n    return a", "a = f()\nassert a[1] is a"),
    "a cycle through a tuple": ("def f():\n    a = []\n    a.append((a,))\n    return a", "a = f()\nassert a[0][0] is a"),
    "state between calls": ("d = {}\ndef put(k, v): d[k] = v\ndef get(k): return d[k]", "put('a', [1])\nget('a').append(2)\nassert get('a') == [1, 2]"),
    "a default that changes": ("def f(x, a=[]):\n    a.append(x)\n    return a", "assert f(1) == [1]\nassert f(2) == [1, 2]"),
    "range is no list": ("def f(n): return range(n)", "assert f(3) == [0, 1, 2]"),
    "range is a range": ("def f(n): return range(n)", "assert f(3) == range(3)\nassert list(f(3)) == [0, 1, 2]"),
    "an array is no list": ("import numpy as np\ndef f(n): return np.arange(n)", "assert f(3) == [0, 1, 2]"),
    "an array": ("import numpy as np\ndef f(n): return np.arange(n) * 0.5", "import numpy as np\nassert np.allclose(f(3), [0, 0.5, 1])\nassert f(3).shape == (3,)\nassert f(3).sum() == 1.5"),
    "an array changed": ("import numpy as np\ndef f(n): return np.sum([1, n])", "assert f(3) == 4\nassert int(f(3)) == 4"),
    "a tuple is no list": ("def f(): return (1, 2)", "assert f() == [1, 2]"),
    "a generator is no list": ("def f():\n    yield 1", "assert f() == [1]"),
    "a generator": ("def f():\n    got = yield 1\n    yield got", "g = f()\nassert next(g) == 1\nassert g.send(7) == 7\nassert next(g, 'end') == 'end'\nassert list(f()) == [1, None]\nimport types\nassert isinstance(f(), types.GeneratorType)"),
    "map and zip": ("def f(a): return map(str, a)\ndef g(a): return zip(a, a)", "assert list(f([1])) == ['1']\nassert list(g([1])) == [(1, 1)]\nassert isinstance(f([]), map)"),
    "an iterator over the tests' data": ("def f(it): return sum(it)", "assert f(x for x in [1, 2]) == 3\nassert f(iter([1])) == 1\nassert f(map(int, '12')) == 3"),
    "a decimal": ("from decimal import Decimal\ndef f(): return Decimal('0.5')", "from decimal import Decimal\nassert f() == 0.5 and f() == Decimal('0.50') and str(f()) == '0.5'"),
    "a fraction": ("from fractions import Fraction\ndef f(): return Fraction(1, 3)", "assert abs(f() - 0.3333) < 1e-3\nassert f().denominator == 3"),
    "a date": ("from datetime import *\ndef f(): return date(2024, 2, 29), datetime(2024, 1, 1, 12), timedelta(days=2)", "from datetime import *\nassert f() == (date(2024, 2, 29), datetime(2024, 1, 1, 12), timedelta(2))\nassert f()[0].isoformat() == '2024-02-29'"),
    "counters": ("from collections import *\ndef f(s): return Counter(s)\ndef g():\n    d = defaultdict(list)\n    d[1].append(2)\n    return d\ndef h(): return OrderedDict(a=1)", "from collections import *\nassert f('aab') == {'a': 2, 'b': 1} and f('aab').most_common(1) == [('a', 2)]\nassert g() == {1: [2]} and g()[5] == []\nassert h() == OrderedDict(a=1)"),
    "dictionary views": ("def f(d): return d.keys(), d.values(), d.items()", "k, v, i = f({1: 2})\nassert k == {1} and list(v) == [2] and i == {(1, 2)}"),
    "views are no lists": ("def f(d): return d.keys()", "assert f({1: 2}) == [1]"),
    "sorted containers": ("from sortedcontainers import SortedList\ndef f(a): return SortedList(a)", "assert f([2, 1]) == [1, 2]\nassert f([2, 1])[0] == 1"),
    "a named tuple": ("from collections import namedtuple\nT = namedtuple('T', 'x y')\ndef f(): return T(1, 2)", "assert f().x == 1 and f() == (1, 2) and f()._asdict() == {'x': 1, 'y': 2}\nassert T(1, 2) == f() and isinstance(f(), tuple) and isinstance(f(), T)\nx, y = f()\nassert y == 2"),
    "a typed tuple": ("from typing import NamedTuple\nclass T(NamedTuple):\n    x: int\n    y: int = 5", "assert T(1).y == 5 and T(1) == (1, 5)"),
    "a data class": ("from dataclasses import dataclass, field\n@dataclass(order=True, frozen=True)\nclass D:\n    x: int\n    y: list = field(default_factory=list)", "assert D(1) == D(1) and D(1) != D(2) and D(1) < D(2)\nassert D(1, [2]).y == [2]\ntry:\n    D(1).x = 3\n    raise SystemExit\nexcept AttributeError: pass"),
    "enums": (COLOURS + "def f(): return C.RED", "assert f() is C.RED and f() == C.RED and f() != C.BLUE\nassert C.RED.name == 'RED' and C(2) is C.BLUE and C['RED'].value == 1\nassert [c.name for c in C] == ['RED', 'BLUE'] and len(C) == 2\nassert N.A == 1 and N.B > N.A and N.A + 1 == 2"),
    "an enum is no number": (COLOURS, "assert C.RED == 1"),
    "own objects": (POINT, "p = P(3)\nassert p == P(3) and p != P(4) and not p == 3\nassert len(p) == 3 and p[2] == 6 and p(1) == 4 and str(p) == 'P(3)'\nassert P.X == 3 and P.g() == 3 and P.make(2).x == 2 and p.double == 6\nassert sorted([P(2), P(1)]) == [P(1), P(2)] and max(P(1), P(5)).x == 5\nassert p + P(1) == P(4) and sum([P(1), P(2)], P(0)) == P(3) and -p == P(-3)\nassert {P(1), P(1)} == {P(1)} and {P(1): 2}[P(1)] == 2 and P(1) in [P(1)]\nassert not P(0) and P(1)\nwith p as q: assert q is p\nassert p.x == -1\np.x = 8\nassert p.double == 16\nassert isinstance(p, P) and type(p) is P and type(p).__name__ == 'P' and callable(p)\nassert hasattr(p, 'x') and not hasattr(p, 'z') and p.__dict__ == {'x': 8}"),
    "own objects and data": (POINT, "p = P(3)\nassert p + 2 == P(5) and 2 + p == P(5) and 3 in p and 4 not in p"),
    "an own object that equals data": ("class M:\n    def __init__(self, v): self.v = v\n    def __eq__(self, o): return self.v == (o.v if isinstance(o, M) else o)\n    def add(self, n): self.v += n", "m = M(5)\nassert m == 5 and 5 == m and m != 6 and M(5) == M(5) and M(1) in [1]\nm.add(2)\nassert m == 7"),
    "own objects that differ": (POINT, "assert P(1) == P(2)"),
    "an object without ==": ("class Q: pass", "assert Q() == Q()"),
    "an object without hash": ("class Q:\n    def __eq__(self, o): return True", "{Q()}"),
    "a list of one's own": (STACK, "s = Stack()\ns.push(1)\ns.push(2)\nassert s == [1, 2] and s.top() == 2 and len(s) == 2 and isinstance(s, list)\ns.append(5)\nassert s.top() == 5\ns.pop()\nassert s.top() == 2"),
    "a string of one's own": ("class S(str):\n    def shout(self): return self.upper() + '!'\ndef f(): return S('a')", "assert f() == 'a' and f().shout() == 'A!' and f() + 'b' == 'ab' and {'a': 1}[f()] == 1"),
    "subclasses": ("class A:\n    def who(self): return 'A'\nclass B(A):\n    def who(self): return 'B' + super().who()", "assert B().who() == 'BA' and isinstance(B(), A) and issubclass(B, A) and not isinstance(A(), B)"),
    "abstract classes": ("from abc import ABC, abstractmethod\nclass A(ABC):\n    @abstractmethod\n    def f(self): ...\nclass B(A):\n    def f(self): return 1", "assert B().f() == 1 and isinstance(B(), A)\ntry: A()\nexcept TypeError: pass\nelse: assert False"),
    "a linked list": ("class Node:\n    def __init__(self, v, next=None): self.v, self.next = v, next\ndef rev(n):\n    p = None\n    while n: n.next, p, n = p, n, n.next\n    return p", "n = Node(1, Node(2, Node(3)))\nr = rev(n)\nout = []\nwhile r: out.append(r.v); r = r.next\nassert out == [3, 2, 1] and n.next is None"),
    "an object that iterates": ("class I:\n    def __init__(self): self.n = 0\n    def __iter__(self): return self\n    def __next__(self):\n        self.n += 1\n        if self.n > 3: raise StopIteration\n        return self.n", "assert list(I()) == [1, 2, 3] and sum(I()) == 6 and 2 in I()"),
    "one that only counts": ("class I:\n    def __getitem__(self, i):\n        if i > 2: raise IndexError\n        return i", "assert list(I()) == [0, 1, 2]"),
    "a falsy object": ("class E:\n    def __bool__(self): return False\ndef f(): return E()", "assert not f()"),
    "a closure": ("def f(a):\n    def g(b): return a + b\n    return g", "assert f(1)(2) == 3 and callable(f(1)) and f(1).__name__ == 'g'"),
    "a callback": ("def f(g, x): return g(x)", "assert f(lambda x: x + 1, 2) == 3 and f(len, 'ab') == 2 and f(str.upper, 'a') == 'A'\nimport operator\nassert f(operator.neg, 1) == -1 and f(int, '3') == 3"),
    "a callback that fails": ("def f(g):\n    try: g()\n    except KeyError as e: return e.args[0]", "def bad(): raise KeyError('k')\nassert f(bad) == 'k'"),
    "a callback that calls back": ("def f(n, g): return 1 if n == 0 else g(n - 1) * n", "assert f(4, lambda n: f(n, lambda m: f(m, lambda k: f(k, None)))) == 24"),
    "a callback that changes its argument": ("def f(g):\n    a = [1]\n    g(a)\n    return a", "assert f(lambda a: a.append(2)) == [1, 2]"),
    "a callback given back": ("def f(g): return g", "g = lambda: 1\nassert f(g) is g"),
    "a decorator": ("def twice(g):\n    def h(*a, **k): return 2 * g(*a, **k)\n    return h", "@twice\ndef f(x, y=1): return x + y\nassert f(1) == 4 and f(1, y=4) == 10"),
    "a cache": ("def memo(g):\n    c = {}\n    def h(n):\n        if n not in c: c[n] = g(n)\n        return c[n]\n    return h", "@memo\ndef fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\nassert fib(20) == 6765"),
    "a sort by the tests' key": ("def f(a, key): return sorted(a, key=key)", "assert f([1, 2, 3], lambda x: -x) == [3, 2, 1]"),
    "the tests' own class": ("def f(a): return [a.v, a.twice(), len(a), a[1]]\ndef put(a): a.v = 9", "class T:\n    def __init__(self): self.v = 1\n    def twice(self): return 2 * self.v\n    def __len__(self): return 4\n    def __getitem__(self, i): return i\nt = T()\nassert f(t) == [1, 2, 4, 1]\nput(t)\nassert t.v == 9"),
    "a class of the tests": ("def f(kind): return kind(3)", "class T:\n    def __init__(self, v): self.v = v\nassert f(T).v == 3 and isinstance(f(T), T)"),
    "an error": (ERRORS, "try: f(3)\nexcept ValueError as e: assert e.code == 3 and str(e) == 'code 3' and isinstance(e, Bad)\nelse: raise SystemExit"),
    "an error by its own class": (ERRORS, "try: f(3)\nexcept Bad as e: assert e.args == ('code 3',)\nelse: raise SystemExit"),
    "another error": (ERRORS, "try: f(3)\nexcept KeyError: pass"),
    "an error of a library": ("import json\ndef f(): return json.loads('{')\ndef g(): return [][1]", "import json\ntry: f()\nexcept json.JSONDecodeError: pass\ntry: g()\nexcept IndexError as e: assert 'range' in str(e)"),
    "no error": ("def f(): return 1", "try: f(); ok = False\nexcept ValueError: ok = True\nassert ok"),
    "a coroutine": ("import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x", "import asyncio\nassert asyncio.run(f(3)) == 3\nasync def both(): return await asyncio.gather(f(1), f(2))\nassert asyncio.run(both()) == [1, 2]"),
    "a context manager": ("from contextlib import contextmanager\nL = []\n@contextmanager\ndef f():\n    L.append('in')\n    yield 5\n    L.append('out')", "with f() as x: assert x == 5\nassert L == ['in', 'out']"),
    "names that are data": ("LIMIT = 7\nTABLE = {1: [2]}", "assert LIMIT == 7 and TABLE[1] == [2]"),
    "names that change": ("n = 0\ndef f():\n    global n\n    n += 1", "f()\nf()\nassert n == 2"),
    "deep nesting": ("def f(n):\n    r = []\n    for _ in range(n): r = [r]\n    return r\ndef g(n):\n    r = ()\n    for _ in range(n): r = (r,)\n    return r", "for made in (f(5000), g(5000)):\n    n = 0\n    while made: made = made[0]; n += 1\n    assert n == 5000"),
    "large answers": ("def f(n): return list(range(n))", "assert len(f(3_000_000)) == 3_000_000 and sum(f(1000)) == 499500"),
    "long integers": ("def f(n): return 10 ** n", "assert f(5000) == 10 ** 5000 and f(100000) % 7 == 10 ** 100000 % 7"),
    "nothing of the kind": ("def f(): return None", "assert f() is None and f() == None"),
    "floats": ("def f(): return [-0.0, float('inf'), 0.1, float('nan')]", "z, i, t, n = f()\nassert str(z) == '-0.0' and i == float('inf') and t == 0.1 and n != n"),
    "complex and bytes": ("def f(): return 1 + 2j, b'a', bytearray(b'b'), memoryview(b'c')", "assert f() == (1 + 2j, b'a', b'b', b'c')"),
    "booleans are no numbers": ("def f(): return 1", "assert f() is True"),
    "texts of all kinds": ("def f(s): return s * 2", "assert f('\\ud83d\\0é') == '\\ud83d\\0é\\ud83d\\0é'"),
    "a match": ("import re\ndef f(s): return re.match('(a)b', s)", "assert f('ab').group(1) == 'a' and f('x') is None and f('ab')[1] == 'a'"),
    "a module": ("import math\ndef f(): return math", "assert f().floor(1.5) == 1"),
    "types": ("def f(x): return type(x)", "assert f(1) is int and f('') == str and f([]) is list"),
    "partial": ("from functools import partial, lru_cache\nf = partial(pow, 2)\n@lru_cache\ndef g(x): return x", "assert f(3) == 8 and g(4) == 4 and g.cache_info().misses == 1"),
    "a copy": (POINT, "import copy\na = P([1])\nb, c = copy.copy(a), copy.deepcopy(a)\nassert b.x is a.x and c.x == [1] and c.x is not a.x and b is not a"),
    "attributes of a function": ("def f(): f.calls += 1\nf.calls = 0", "f()\nf()\nassert f.calls == 2"),
    "counting by attribute": ("class C:\n    n = 0\n    def __init__(self): C.n += 1", "C(); C()\nassert C.n == 2\nC.n = 7\nC()\nassert C.n == 8"),
    "a missing method": ("class C: pass", "C().walk()"),
    "a missing name": ("def g(): pass", "assert f() == 1"),
    "the recursion is too deep": ("def f(n): return f(n + 1)", "assert f(0) == 0"),
    "it exits": ("import sys\ndef f(): sys.exit(0)", "assert f() is None"),
    "digits beyond Python's own limit": ("def f(n): return len(str(10 ** n))", "assert f(5000) == 5001"),
    "slices": ("class S:\n    def __getitem__(self, s): return (s.start, s.stop, s.step) if isinstance(s, slice) else s", "assert S()[1:2] == (1, 2, None) and S()[1, 2] == (1, 2) and S()[...] is ..."),
    "setting items": ("class S(dict):\n    pass\nclass M:\n    def __init__(self): self.d = {}\n    def __setitem__(self, k, v): self.d[k] = v\n    def __getitem__(self, k): return self.d[k]\n    def __delitem__(self, k): del self.d[k]", "m = M()\nm['a'] = 1\nm['b'] = 2\ndel m['a']\nassert m.d == {'b': 2} and m['b'] == 2\ns = S(a=1)\ns['b'] = 2\nassert s == {'a': 1, 'b': 2}"),
    "in-place operators": ("class A:\n    def __init__(self, v): self.v = v\n    def __iadd__(self, o):\n        self.v += o\n        return self", "a = b = A(1)\na += 2\nassert a is b and b.v == 3"),
    "comparison with itself": ("import functools\n@functools.total_ordering\nclass V:\n    def __init__(self, v): self.v = v\n    def __eq__(self, o): return self.v == o.v\n    def __lt__(self, o): return self.v < o.v", "assert V(1) <= V(1) < V(2) and V(3) >= V(2) and [v.v for v in sorted([V(2), V(1)], reverse=True)] == [2, 1]"),
    "formats": ("class F:\n    def __format__(self, spec): return 'F' + spec\n    def __str__(self): return 's'\n    def __int__(self): return 4\n    def __float__(self): return 0.5\n    def __index__(self): return 2", "assert f'{F():x} {F()!s}' == 'Fx s' and int(F()) == 4 and float(F()) == 0.5 and [5, 6, 7][F()] == 7"),
    "a heap of tuples": ("import heapq\ndef f(a):\n    heapq.heapify(a)\n    return [heapq.heappop(a) for _ in range(len(a))]", "a = [(2, 'b'), (1, 'a')]\nassert f(a) == [(1, 'a'), (2, 'b')] and a == []"),
    "many calls": ("def f(a): return sum(a)", "for n in range(2000): assert f([n, 1]) == n + 1"),
    "an error's file name": ("def f(): open('/nonexistent/x')", "import errno\ntry: f()\nexcept FileNotFoundError as e: assert e.errno==errno.ENOENT and e.filename=='/nonexistent/x'"),
    "a group of errors": ("def f(): raise ExceptionGroup('g',[ValueError(1),TypeError(2)])", 'try: f()\nexcept* ValueError as g: assert len(g.exceptions)==1\nexcept* TypeError: pass'),
    "what is printed": ("def f(): print('hi')", "import io, contextlib\nb=io.StringIO()\nwith contextlib.redirect_stdout(b): f()\nassert b.getvalue()=='hi\\n'"),
    "what is printed elsewhere": ("def f(): print('hi')", "import io, sys\nold=sys.stdout\nsys.stdout=io.StringIO()\nf()\ns=sys.stdout.getvalue()\nsys.stdout=old\nassert s=='hi\\n'"),
    "what is read": ('def f(): return input()', "import io, sys\nsys.stdin=io.StringIO('abc\\n')\nassert f()=='abc'"),
    "a file": ('def f(fp): return fp.read().split()', "import io\nassert f(io.StringIO('a b'))==['a','b']"),
    "rows of a file": ('import csv\ndef f(fp): return list(csv.reader(fp))', "import io\nassert f(io.StringIO('a,b\\n1,2\\n'))==[['a','b'],['1','2']]"),
    "a limit of recursion that the tests set": ('def f(n): return 0 if n==0 else 1+f(n-1)', 'import sys\nsys.setrecursionlimit(10000)\nassert f(5000)==5000'),
    "a limit of digits that the tests set": ('def f(n): return str(10**n)', 'import sys\nsys.set_int_max_str_digits(0)\nassert len(f(5000))==5001'),
    "a method that the tests replace": ('class A:\n    def g(self): return 1\n    def h(self): return self.g()', 'A.g=lambda self: 5\nassert A().h()==5'),
    "a method that the tests replace and put back": ('class P:\n    def go(self): return 1\ndef h(self): return 7', "old = P.go\nP.go = lambda self: 5\nassert P().go() == 5\nP.go = old\nassert P().go() == 1\ntry: P.go = h; assert P().go() == 7\nfinally: setattr(P, 'go', old)\nP.walk = P.go\nassert P().walk() == P().go() == 1"),
    "a method that the tests mock": ('class P:\n    def go(self, x, *, y=2): return 1\n    def twice(self): return 2 * self.go(0)', "import inspect\nfrom unittest.mock import patch\np = P()\nwith patch.object(P, 'go', return_value=5) as m: assert P().twice() == p.twice() == 10\nassert m.call_count == 2 and p.twice() == 2\nwith patch.object(p, 'go', return_value=5): assert p.twice() == 10 and P().twice() == 2\nassert p.twice() == 2 and str(inspect.signature(P.go)) == '(self, x, *, y=2)'\nP.n = 3\ndel P.n\nassert not hasattr(P, 'n')"),
    "a method of the program's in a class of the tests": ('class P:\n    def go(self): return 1\ndef h(self): return 7', "class T(P):\n    walk = P.go\n    go = h\nassert (T().walk(), T().go()) == (1, 7)"),
    "a data class of the tests": ('def f(p): return p.x', 'from dataclasses import dataclass\n@dataclass\nclass P:\n    x:int\nassert f(P(3))==3'),
    "an enum of the tests": ('def f(c): return c.name, c.value', "from enum import Enum\nclass C(Enum):\n    R=1\nassert f(C.R)==('R',1)"),
    "a dictionary of the tests' own class": ("def f(d): return d['q'], list(d)", "class D(dict):\n    def __missing__(self,k): return 0\nassert f(D(a=1))==(0,['a'])"),
    "wrapped as the tests' function": ('import functools\ndef deco(g):\n    @functools.wraps(g)\n    def h(*a): return g(*a)+1\n    return h', "@deco\ndef q(x):\n    'doc'\n    return x\nassert q(1)==2 and q.__name__=='q' and q.__doc__=='doc' and q.__wrapped__(1)==1"),
    "a partial function": ('def f(g): return g(2)', 'from functools import partial\nassert f(partial(pow,3))==9'),
    "an item getter": ('def f(a,k): return sorted(a,key=k)', 'from operator import itemgetter, attrgetter\nassert f([(1,2),(0,3)],itemgetter(0))==[(0,3),(1,2)]'),
    "a dictionary that keeps an order and more": ('from collections import OrderedDict\nclass LRU(OrderedDict):\n    def __init__(self,n): super().__init__(); self.n=n\n    def put(self,k,v):\n        self[k]=v; self.move_to_end(k)\n        if len(self)>self.n: self.popitem(last=False)', 'l=LRU(2)\nl.put(1,1); l.put(2,2); l.put(3,3)\nassert list(l)==[2,3] and 1 not in l'),
    "iterators backwards": ('def f(it): return list(it)', 'a=[1,2]\nassert f(reversed(a))==[2,1] and f(enumerate(a))==[(0,1),(1,2)] and f(zip(a,a))==[(1,1),(2,2)] and f(a.__iter__())==[1,2]'),
    "an error inside a context": ('from contextlib import contextmanager\n@contextmanager\ndef f():\n    try: yield\n    except ValueError: pass', 'with f(): raise ValueError\nassert True'),
    "an error that a context takes": ('class C:\n    L=[]\n    def __enter__(self): return self\n    def __exit__(self,t,v,b): C.L.append(t.__name__ if t else None); return True', "with C(): raise KeyError\nwith C(): pass\nassert C.L==['KeyError',None]"),
    "a list that works otherwise": ('class L(list):\n    def append(self,x): super().append(x*2)\n    def __len__(self): return 99', 'l=L()\nl.append(1)\nassert l==[2] and len(l)==99'),
    "documentation": ("def f():\n    'doc'\n", "assert f.__doc__=='doc' and f.__name__=='f'"),
    "annotations": ("def f(a:int)->str: return ''", "assert f.__annotations__=={'a':int,'return':str}"),
    "a chain of maps": ("from collections import ChainMap\ndef f(): return ChainMap({'a':1},{'b':2})", "assert f()['b']==2 and dict(f())=={'a':1,'b':2} and len(f())==2 and f()=={'a':1,'b':2}"),
    "a pattern": ("import re\ndef f(): return re.compile('a+')", "import re\nassert f().findall('aab')==['aa'] and f().pattern=='a+' and f()==re.compile('a+')"),
    "an asynchronous generator": ('async def f():\n    for i in range(3): yield i', 'import asyncio\nasync def m(): return [x async for x in f()]\nassert asyncio.run(m())==[0,1,2]'),
    "an asynchronous context": ('class A:\n    async def __aenter__(self): return 5\n    async def __aexit__(self,*a): return False', 'import asyncio\nasync def m():\n    async with A() as x: return x\nassert asyncio.run(m())==5'),
    "an object to await": ('class A:\n    def __await__(self):\n        yield from ()\n        return 3', 'import asyncio\nasync def m(): return await A()\nassert asyncio.run(m())==3'),
    "an annotation of nothing": ("def f(x: List[int]): return 1", "assert f([]) == 1"),
    "an array changed in place": ('import numpy as np\ndef f(a): a += 1; return a', 'import numpy as np\na=np.zeros((2,3))\nb=f(a)\nassert b is a and a.sum()==6\na[0]=9\nassert f(a)[0,0]==10'),
    "a row of an array": ('import numpy as np\ndef f(a): a[1][:]=7', 'import numpy as np\na=np.zeros((2,3))\nf(a)\nassert a.tolist()==[[0,0,0],[7,7,7]]'),
    "an array that changes later": ('import numpy as np\nA=np.arange(4)\ndef f(): return A\ndef g(): A[0]=99', 'a=f()\ng()\nassert a[0]==99 and f() is a'),
    "an array of objects": ("import numpy as np\ndef f(): return np.array([1,'a',None],dtype=object)", "assert list(f())==[1,'a',None]"),
    "arrays of all kinds": ("import numpy as np\ndef f(): return np.array(3), np.array([True]), np.array(['ab','c']), np.datetime64('2020-01-01'), np.array(['2020'],dtype='M8[D]')", "import numpy as np\na,b,c,d,e=f()\nassert a==3 and a.shape==() and b[0] and c[0]=='ab' and d==np.datetime64('2020-01-01') and e[0]==np.datetime64('2020-01-01')"),
    "an array in another shape": ('import numpy as np\ndef f(a): a.shape=(3,2)', 'import numpy as np\na=np.zeros((2,3))\nf(a)\nassert a.shape==(3,2)'),
    "arrays in a list": ('import numpy as np\ndef f(l):\n  for a in l: a*=2', 'import numpy as np\nl=[np.ones(2),np.ones(3)]\nf(l)\nassert l[0].sum()==4 and l[1].sum()==6'),
    "an array in another order": ('import numpy as np\ndef f(): return np.asfortranarray(np.arange(6).reshape(2,3)).T[::-1]', 'import numpy as np\nassert f().tolist()==np.arange(6).reshape(2,3).T[::-1].tolist()'),
    "an array that cannot change": ("import numpy as np\ndef f(a):\n  try: a[0]=1\n  except ValueError: return 'ro'", "import numpy as np\na=np.zeros(2)\na.flags.writeable=False\nassert f(a)=='ro'"),
    "a typed array": ('from array import array\ndef f(a): a.append(3); return a', "from array import array\na=array('i',[1])\nassert f(a) is a and a==array('i',[1,3]) and a.typecode=='i'"),
    "a namespace": ('import types\ndef f(): return types.SimpleNamespace(x=1,y=[2])', 'import types\nassert f()==types.SimpleNamespace(x=1,y=[2]) and f().y==[2]'),
    "a namespace changed in place": ('def f(n): n.x=5; del n.y; n.z=n', "import types\nn=types.SimpleNamespace(x=1,y=2)\nf(n)\nassert n.x==5 and not hasattr(n,'y') and n.z is n"),
    "a view that shows what comes later": ('def f(d): return d.keys()', "d={'a':1}\nk=f(d)\nd['b']=2\nassert list(k)==['a','b'] and 'b' in k and len(k)==2"),
    "views as sets": ("def f(d): return d.keys() & {'a'}, d.items()", "k,i=f({'a':1,'b':2})\nassert k=={'a'} and ('b',2) in i and sorted(i)==[('a',1),('b',2)]"),
    "values of the tests' dictionary": ('def f(v): return sum(v)', "d={'a':1,'b':2}\nassert f(d.values())==3"),
    "a type with arguments": ('def f(t): return t.__args__', 'assert f(dict[str,int])==(str,int)'),
    "data classes as dictionaries": ('from dataclasses import dataclass, field\n@dataclass\nclass A:\n    x:int\n@dataclass\nclass B(A):\n    a: A = None\n    l: list = field(default_factory=list)\n    def g(self): return self.x', "from dataclasses import asdict, astuple, fields, is_dataclass, replace\nb=B(1,A(2),[A(3)])\nassert asdict(b)=={'x':1,'a':{'x':2},'l':[{'x':3}]} and astuple(A(1))==(1,) and is_dataclass(b) and is_dataclass(B)\nassert replace(b,x=9).x==9 and replace(b,x=9).g()==9\nassert [f.name for f in fields(B)]==['x','a','l']"),
    "an error without its cause": ("def f():\n    try: 1/0\n    except ZeroDivisionError: raise KeyError('k') from None", 'try: f()\nexcept KeyError as e: assert e.__cause__ is None and e.__suppress_context__ and isinstance(e.__context__,ZeroDivisionError)'),
    "an error with its cause": ("class E(Exception): pass\ndef f():\n    try: 1/0\n    except ZeroDivisionError as z: raise E('k') from z", "try: f()\nexcept E as e: assert isinstance(e.__cause__,ZeroDivisionError) and str(e)=='k'\nelse: assert 0"),
    "a chain of errors": ('def f():\n    e=None\n    for i in range(50):\n        n=ValueError(i); n.__context__=e; e=n\n    raise e', 'n=0\ntry: f()\nexcept ValueError as e:\n    while e: n+=1; e=e.__context__\nassert n==50'),
    "a protocol": ('from typing import Protocol, runtime_checkable\n@runtime_checkable\nclass P(Protocol):\n    def go(self): ...\nclass A:\n    def go(self): pass\nclass B: pass', 'assert isinstance(A(),P) and not isinstance(B(),P)'),
    "a class that was registered": ('from abc import ABC\nclass P(ABC): pass\nclass A: pass\nP.register(A)', 'assert isinstance(A(),P)'),
    "a list of attributes": ('class A:\n    def __init__(self): self.x=1\n    def go(self): pass', "assert 'x' in dir(A()) and 'go' in dir(A())"),
    "a part of some memory": ('def f(b): return memoryview(b)[1:]', "b=bytearray(b'abc')\nassert bytes(f(b))==b'bc'"),
    "memory that changes": ('def f(b): return memoryview(b)', "b=bytearray(b'abc')\nm=f(b)\nm[0]=90\nassert b==b'Zbc' and m.obj is b"),
    "an input that the tests mock": ("def f(): return input('?') + input()", "from unittest.mock import patch\nwith patch('builtins.input', side_effect=['7', '8']) as m:\n    assert f() == '78'\nassert m.call_count == 2 and m.call_args_list[0].args == ('?',)"),
    "a clock that the tests mock": ("import time, random\ndef f(): return time.time() + random.random()", "from unittest.mock import patch\nwith patch('time.time', return_value=7), patch('random.random', return_value=0.5):\n    assert f() == 7.5\nassert f() > 8"),
    "a steady clock that the tests mock": ("import time\nBEGAN = time.monotonic()\ndef f(): return time.monotonic()", "from unittest.mock import patch\nwith patch('time.monotonic', return_value=7): assert f() == 7\nwith patch('time.monotonic', side_effect=[1, 2]) as m:\n    assert (f(), f()) == (1, 2)\nassert m.call_count == 2 and f() > BEGAN"),
    "a clock that the tests replace by another name": ("import time\ndef f(): return time.time()", "import time as t\nold, t.time = t.time, lambda: 5\nassert f() == 5\nt.time = old\nassert f() > 5"),
    "a mock whose result nobody uses": ("def f():\n    print('a')\n    return 1", "from unittest.mock import patch\nwith patch('builtins.print') as m: assert f() == 1\nassert m.call_count == 1"),
    "an output that the tests mock": ("def f(): print(input())", "import io\nfrom unittest.mock import patch\nwith patch('sys.stdout', new=io.StringIO()) as out, patch('sys.stdin', io.StringIO('a\\n')):\n    f()\nassert out.getvalue() == 'a\\n'"),
    "a print of the tests' own": ("def f(a): print(a)", "import builtins\nout, old = [], builtins.print\nbuiltins.print = lambda *a: out.append(a)\nf(3)\nbuiltins.print = old\nassert out == [(3,)]"),
    "a length of the tests' own": ("def f(a): return len(a)", "import builtins\nold = builtins.len\nbuiltins.len = lambda x: 42\nr = f([1])\nbuiltins.len = old\nassert r == 42"),
    "a length of the program's own": ("import builtins\nold = builtins.len\nbuiltins.len = lambda x: 42\ndef f(a): return a\ndef undo(): builtins.len = old", "r = f([1])\nundo()\nassert r == [1] and len(f([1])) == 1"),
    "a zone that the tests set": ("import time\ndef f(s): return time.localtime(s).tm_hour", "import os, time\nos.environ['TZ'] = 'A-5'\ntime.tzset()\nassert f(0) == 5\nos.environ['TZ'] = 'UTC'\ntime.tzset()\nassert f(0) == 0\nos.environ.pop('TZ')\ntime.tzset()\nassert f(0) in range(24)"),
    "errors that the tests read": ("import sys\ndef f():\n    print('a', file=sys.stderr)\n    print('b')\n    sys.stderr.write('c')\n    return 1", "import contextlib, io\nfrom unittest.mock import patch\nwith patch('sys.stderr', new=io.StringIO()) as e, patch('sys.argv', ['solution.py']): assert f() == 1\nassert e.getvalue() == 'a\\nc'\nb = io.StringIO()\nwith contextlib.redirect_stderr(b), contextlib.redirect_stdout(b): f()\nassert b.getvalue() == 'a\\nb\\nc' and f() == 1"),
    "an environment": ("import os\ndef f(): return os.environ.get('ZZ')", "import os\nos.environ['ZZ'] = '1'\na = f()\ndel os.environ['ZZ']\nassert a == '1' and f() is None"),
    "an environment of the program's own": ("import os\nos.environ.setdefault('MODE', 'fast')\ndef f(): return os.environ['MODE'], os.environ.get('N')\ndef g(): os.environ['N'] = '9'", "import os\nos.environ['N'] = '3'\nassert f() == ('fast', '3')\ng()\nos.environ['MODE'] = 'slow'\nassert f() == ('slow', '9')\nfor name in ('MODE', 'N'): os.environ.pop(name, None)"),
    "one that the tests put back": ("import os\nos.environ['MODE'] = 'fast'\ndef load(t):\n    k, v = t.split('=')\n    os.environ[k] = v\ndef get(k): return os.environ.get(k, 'none')\ndef each(g):\n    os.environ['E'] = '1'\n    g()\n    return get('E')", "import os\nfrom unittest.mock import patch\nwith patch.dict(os.environ, {'A': '1'}):\n    load('X=1')\n    load('A=2')\n    assert (get('X'), get('A'), os.environ['X']) == ('1', '2', '1')\nassert get('X') == get('A') == 'none' and os.environ['MODE'] == 'fast'\nload('X=1')\nwith patch.dict(os.environ, {}, clear=True): assert get('X') == get('MODE') == 'none'\nassert (get('X'), get('MODE')) == ('1', 'fast')\ndef seen():\n    assert os.environ.pop('E') == '1'\n    load('F=2')\neach(seen)\nassert get('E') == 'none' and get('F') == os.environ['F'] == '2'\nfor name in ('F', 'X', 'MODE'): os.environ.pop(name, None)"),
    "a pattern of a class": ("class P:\n    __match_args__ = ('x', 'y')\n    def __init__(self, x, y): self.x, self.y = x, y", "match P(1, 2):\n    case P(a, b): assert (a, b) == (1, 2)\n    case _: assert False"),
    "a list of a class": ("class A:\n    def go(self): pass", "assert 'go' in dir(A) and 'stay' not in dir(A)"),
    "classes that a metaclass registers": ('class M(type):\n    ALL = {}\n    def __new__(m, name, bases, space):\n        made = super().__new__(m, name, bases, space)\n        m.ALL[name] = made\n        return made\nclass A(metaclass=M): pass\nclass B(A): pass\ndef names(): return sorted(M.ALL)', "assert names() == ['A', 'B'] and M.ALL['A'] is A and type(A) is M and isinstance(B, M) and issubclass(M, type)\nT = M('T', (), {'x': 1})\nassert T.x == 1 and type(T) is M and names() == ['A', 'B', 'T']"),
    "a metaclass of single objects": ('class S(type):\n    made = {}\n    def __call__(c, *a):\n        if c not in c.made: c.made[c] = super().__call__(*a)\n        return c.made[c]\nclass A(metaclass=S):\n    def __init__(self, x=0): self.x = x', 'assert A(1) is A(2) and A(3).x == 1 and type(A(5)) is A and S.made[A] is A()'),
    "operators of a class": ("class M(type):\n    def __len__(c): return 3\n    def __iter__(c): return iter([1, 2])\n    def __getitem__(c, k): return k * 2\n    def __repr__(c): return 'R'\n    def __lt__(c, o): return c.n < o.n\n    def __add__(c, o): return c.n + o.n\nclass A(metaclass=M): n = 1\nclass B(metaclass=M): n = 2", "assert len(A) == 3 and list(A) == [1, 2] and A[3] == 6 and repr(A) == 'R' and A < B and A + B == 3 and sorted([B, A]) == [A, B]\nassert 2 in A and 9 not in A"),
    "a class that the tests derive": ('class A:\n    n = 2\n    def __init__(self, x=1): self.x = x\n    def area(self): return 0\n    def twice(self): return self.n * self.area()', 'class S(A):\n    n = 3\n    def area(self): return self.x + 5\ns = S(4)\nassert s.twice() == 27 and isinstance(s, A) and issubclass(S, A) and type(s) is S\ns.x = 1\nassert s.area() == 6 and A().twice() == 0'),
    "one that equals data": ("class P:\n    def __init__(self, v): self.v = v\n    def __eq__(self, o): return self.v == (o.v if isinstance(o, P) else o)", "class T(P): pass\nassert T(3) == 3 and T(3) != 4 and T(3) == T(3)"),
    "one whose base looks at its methods": ("import inspect\nclass P:\n    made = {}\n    def __init_subclass__(cls, **k):\n        for name, each in vars(cls).items():\n"
    "            if callable(each): P.made[name] = (each.__name__, each.__doc__, str(inspect.signature(each)), each.__qualname__)", "class X(P):\n    def run(self, a, /, b=3, *c, d, **e):\n        'It runs.'\n    go = run\n"
    "assert P.made == dict.fromkeys(('run', 'go'), ('run', 'It runs.', '(self, a, /, b=3, *c, d, **e)', 'X.run'))\ndef stop(self, x): 'It stops.'\nX.stop = stop\nassert X.stop.__name__ == 'stop' and X.stop.__doc__ == 'It stops.'"),
    "one that tells its class": ("class A:\n    def __init__(self, x=1): self.x = x", "class S(A):\n    'A class.'\n    def __repr__(self):\n        'Like __init__.'\n        return f'{self.__class__.__name__}({self.__dict__})'\nassert repr(S(4)) == \"S({'x': 4})\""),
    "a base's operator by its name": ("class Base:\n    def __init__(self, v): self.v = v\n    def __str__(self): return f'B{self.v}'\n    def __hash__(self): return 7\nclass P(Base): pass", "class T(P):\n    def go(self): return 1 if __name__ == '__main__' else 2\nassert Base.__str__(P(3)) == P.__str__(T(3)) == 'B3' and Base.__hash__(P(1)) == 7 and T(1).go() == 2"),
    "an abstract one": ('from abc import ABC, abstractmethod\nclass A(ABC):\n    @abstractmethod\n    def f(self): ...\n    def g(self): return self.f() + 1', 'class B(A):\n    def f(self): return 1\nassert B().g() == 2\nclass D(A): pass\ntry: D()\nexcept TypeError: pass\nelse: assert False'),
    "one that its base registers": ('class P:\n    made = {}\n    def __init_subclass__(cls, tag=None, **k):\n        super().__init_subclass__(**k)\n        P.made[tag] = cls', "class X(P, tag='x'):\n    def run(self): return 'ran'\nassert P.made == {'x': X} and P.made['x']().run() == 'ran'"),
    "one that its metaclass registers": ('class M(type):\n    made = {}\n    def __new__(m, n, b, d):\n        c = super().__new__(m, n, b, d)\n        m.made[n] = c\n        return c\nclass P(metaclass=M): pass', "class X(P):\n    def run(self): return 'ran'\nassert M.made['X'] is X and X().run() == 'ran' and type(X) is M"),
    "one with operators": ('class A:\n    def same(self, o): return self == o\n    def show(self): return repr(self)', "class S(A):\n    def __init__(self, v): self.v = v\n    def __eq__(self, o): return self.v == o.v\n    def __repr__(self): return 'q'\nassert S(1).same(S(1)) and not S(1).same(S(2)) and S(1).show() == 'q'"),
    "a type with an argument": ('def f(): return list[int]', 'assert f()==list[int]'),
    "limits that the program raises": ("import decimal, sys\nsys.setrecursionlimit(20000)\nsys.set_int_max_str_digits(0)\ndecimal.getcontext().prec = 60\ndef f(n): return 10 ** n\ndef g(): return decimal.Decimal(1) / 3", "def r(n): return n and 1 + r(n - 1)\nassert len(str(f(5000))) == 5001 and r(3000) == 3000\nassert abs(g() * 3 - 1) < 1e-50 and len(str(g() / 7)) == 63"),
    "one limit of the tests' and one of the program's": ("import sys\nsys.setrecursionlimit(20000)\ndef f(n): return n and 1 + f(n - 1)", "import sys\nsys.set_int_max_str_digits(0)\nassert f(5000) == 5000"),
    "a precision that the tests set": ("from decimal import Decimal\ndef f(): return str(Decimal(1) / 7)", "import decimal\nwith decimal.localcontext() as c:\n    c.prec = 5\n    assert f() == '0.14286'\nassert len(f()) == 30"),
    "a mapping of one's own": ("from collections import UserDict\nfrom collections.abc import MutableMapping\nclass M(MutableMapping):\n    def __init__(self): self.d = {}\n    def __getitem__(self, k): return self.d[k]\n    def __setitem__(self, k, v): self.d[k] = v\n    def __delitem__(self, k): del self.d[k]\n    def __iter__(self): return iter(self.d)\n    def __len__(self): return len(self.d)\ndef f(v):\n    m = M()\n    m['a'] = v\n    return m\ndef g(): return UserDict(a=[1])", "from collections.abc import Mapping, Sequence\nassert f(1) == {'a': 1} and {'a': 1} == f(1) and f(2) != {'a': 1} and f(1) != [1] and f([f(1)]) == {'a': [{'a': 1}]}\nassert isinstance(f(1), Mapping) and issubclass(M, Mapping) and not isinstance(f(1), Sequence)\nassert g() == {'a': [1]} and g() != {}"),
    "a mapping that differs": ("from collections import UserDict\ndef f(): return UserDict(a=1)", "assert f() == {'a': 2}"),
    "a set of one's own": ("from collections.abc import Set\nclass O(Set):\n    def __init__(self, a): self.a = list(a)\n    def __contains__(self, x): return x in self.a\n    def __iter__(self): return iter(self.a)\n    def __len__(self): return len(self.a)\ndef f(*a): return O(a)", "assert f(1, 2) == {2, 1} and f(1) != {2} and {1} == f(1) and f(1) == frozenset([1]) and f(1) != [1]"),
    "iterators of a library": ("import itertools\ndef f(): return itertools.chain([1])", "import itertools\nassert isinstance(f(), itertools.chain) and not isinstance(f(), itertools.count)"),
    "slots": ("class A:\n    __slots__ = ('x',)\nclass B: pass", "assert A.__slots__ == ('x',) and not hasattr(A(), '__dict__') and not hasattr(B, '__slots__')"),
    "a generator of the tests' that is sent to": ("def f(g):\n    next(g)\n    try: g.send(5)\n    except StopIteration as s: return s.value\ndef h(g):\n    next(g)\n    return g.throw(KeyError)", "def gen():\n    got = yield\n    return got * 2\ndef held():\n    try: yield\n    except KeyError: yield 3\nassert f(gen()) == 10 and h(held()) == 3"),
    "how the tests' function takes its arguments": ("import inspect\ndef curry(f):\n    n = f.__code__.co_argcount\n    def g(*a): return f(*a) if len(a) >= n else lambda *b: g(*a, *b)\n    return g\ndef shown(f): return str(inspect.signature(f))", "assert curry(lambda a, b, c: a + b + c)(1)(2)(3) == 6\nassert shown(lambda a, /, b=2, *c, d=3, **e: 0) == '(a, /, b=2, *c, d=3, **e)'"),
    "a mock that a program depends on": ("class S:\n    def __init__(self, repo): self.repo = repo\n    def get(self, i):\n        with self.repo.lock as lock: return self.repo.find(i)['n'], len(lock.queue)", "from unittest.mock import Mock, MagicMock\nr = MagicMock()\nr.find.side_effect = [{'n': 'x'}, KeyError]\nassert S(r).get(1) == ('x', 0)\nr.find.assert_called_once_with(1)\ntry: S(r).get(2)\nexcept KeyError: pass\nelse: assert False"),
    "a mock that a program calls otherwise": ("def f(m): m.go(2)", "from unittest.mock import Mock\nm = Mock()\nf(m)\nm.go.assert_called_once_with(1)"),
    "a file that the tests mock": ("def f():\n    with open('x') as file: return file.read()", "from unittest.mock import patch, mock_open\nwith patch('builtins.open', mock_open(read_data='a')): assert f() == 'a'"),
    "a class that the tests derive with super": ("class A:\n    n = 2\n    def __init__(self, x, *, y=0): self.x, self.y = x, y\n    def area(self): return self.x\n    def __str__(self): return f'A{self.x}'\n    @classmethod\n    def make(cls): return cls(1)\n    def twice(self): return 2 * self.area()", "class B(A):\n    def __init__(self, x): super().__init__(x + 1, y=3)\n    def area(self): return super().area() * 10 + self.n\n    def __str__(self): return 'B' + super().__str__()\n    @classmethod\n    def make(cls): return super().make()\nclass C(B):\n    def area(self): return super(C, self).area() + 1\nclass D(A):\n    def __init__(self): A.__init__(self, 7)\n    def __str__(self): return A.__str__(self) + '!'\nb = B(1)\nassert (b.x, b.y, b.area(), b.twice(), str(b)) == (2, 3, 22, 44, 'BA2')\nassert type(B.make()) is B and C(1).twice() == 46 and isinstance(C(1), A) and str(D()) == 'A7!'"),
    "one with a property": ("class A:\n    def show(self): return self.size, self.kind(), self.name()", "class B(A):\n    @property\n    def size(self): return self.s\n    @size.setter\n    def size(self, v): self.s = v\n    @staticmethod\n    def kind(): return 'k'\n    @classmethod\n    def name(cls): return cls.__name__\nb = B()\nb.size = 3\nassert b.show() == (3, 'k', 'B') and b.size == 3 and B.kind() == 'k'"),
    "super among the tests' own": ("def f(x): return x", "class A:\n    def go(self): return 1\nclass B(A):\n    def __init__(self): super().__init__()\n    def go(self): return f(super().go())\nassert B().go() == 1"),
}  # fmt: skip


def plain(program, tests, monkeypatch):
    """What one interpreter says."""
    module = types.ModuleType("plain")
    names = module.__dict__
    monkeypatch.setitem(sys.modules, "plain", module)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stdin", sys.stdin)
    try:
        exec(compile(program, "solution.py", "exec"), names)
        exec(compile(tests, "<tests>", "exec"), names)
    except BaseException as error:  # noqa: BLE001 - the test of a program may end by anything
        return f"wrong ({type(error).__name__}: {error})"
    return "correct"


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_is_plain_pythons(worker, name, monkeypatch):
    program, tests = CASES[name]
    depth, digits = sys.getrecursionlimit(), sys.get_int_max_str_digits()
    try:
        with decimal.localcontext():
            expected = plain(program, tests, monkeypatch)
    finally:
        sys.setrecursionlimit(depth)
        sys.set_int_max_str_digits(digits)
    # What the tests are about: a name that is neither here nor there would be a fault of the data.
    names = {"f": "f"} if name == "a missing name" else {n: n for n in definitions(program)}
    found = judge(worker, program, Assertions(tests, names=names), LIMITS)
    assert found.status == expected.partition(" ")[0], (expected, found.reason)


def test_the_time_that_tests_take_is_not_the_programs(worker):
    slow = "import time\nfor n in range(3):\n    time.sleep(0.4)\n    assert f(n) == n"
    asked = Assertions(slow, names={"f": "f"})
    tight = Limits(cpu_s=1, wall_s=0.8)
    assert judge(worker, "def f(x): return x", asked, tight).status == "correct"
    found = judge(worker, "import time\ndef f(x): time.sleep(60)", asked, tight)
    assert (found.status, found.reason) == ("wrong", "no end within 0.8 s")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("(P):\n    x: int = 1", "fields"),
        ("(P):\n    def __eq__(self, o): return P.__eq__(self, o)\nT() == 3", "a call of __eq__"),
        ("(P):\n    def go(self): return super().__eq__(3)\nT().go()", "a call of __eq__"),
        ("(P):\n    def __eq__(self, o): return same(self)\nT() == 3", "a call of __eq__"),
        ("(P, Own): pass", "a base of their own"),
        ("(P, ABC): pass", "a metaclass of their own"),
        ("(P, metaclass=ABCMeta): pass", "a metaclass of their own"),
        ("(ABC, metaclass=M): pass", "a metaclass of their own"),
    ],
)  # fmt: skip
def test_a_class_that_tests_cannot_derive_is_no_fault_of_the_program(worker, body, what):
    tests = f"from abc import ABC, ABCMeta\nclass Own: pass\ndef same(p): return P.__eq__(p, 3)\nclass T{body}\nassert T()"
    found = judge(
        worker,
        "from abc import ABCMeta\nclass M(ABCMeta): pass\nclass P:\n    def go(self): pass\n    def __eq__(self, o): return True",
        Assertions(tests, names={"P": "P", "M": "M"}),
        LIMITS,
    )
    assert found.status == "grader_error"
    assert re.search(
        rf"the program's [MPT], with {re.escape(what)} at `(class T|def go|def same|def __eq__)",
        found.reason,
    )


def test_what_cannot_be_read_is_no_fault_of_the_program(worker):
    for tests, status in (
        ("assert P.go.__globals__", "grader_error"),
        ("assert not hasattr(P, '__far__')", "correct"),
        ("assert P().__len__()", "wrong"),
        ("assert P().startswith('a')", "wrong"),
    ):
        asked = Assertions(tests, names={"P": "P"})
        assert judge(worker, "class P:\n    def go(self): pass", asked, LIMITS).status == status


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        (
            "class P: pass",
            "class T(P):\n    x: int = 1\nraise AssertionError",
        ),
        ("def P(x): return x", "import unittest.mock\nP(unittest.mock.sentinel)\nassert P(1)"),
    ],
)  # fmt: skip
def test_what_cannot_be_handed_over_is_told_whatever_the_tests_catch(worker, program, tests):
    lines = tests.replace("\n", "\n    ")
    caught = (
        f"from contextlib import suppress\nwith suppress(Exception):\n    {lines}",
        f"import unittest\nwith unittest.TestCase().assertRaises(TypeError):\n    {lines}",
        f"ok = True\ntry:\n    {lines}\nexcept Exception: ok = False\nassert ok",
    )
    for tried in caught:
        found = judge(worker, program, Assertions(tried, names={"P": "P"}), LIMITS)
        assert found.status == "grader_error", found
        assert ("the tests" in found.reason, " at `" in found.reason) == (True, True)


def test_tests_with_files_of_their_own_are_no_fault_of_the_program(worker):
    for kept in (
        "open(path, 'w').write('a')",
        "os.makedirs('/tmp/own/x', exist_ok=True)",
        "os.chdir('/')",
    ):
        tests = f"import os\npath = '/tmp/own'\n{kept}\nassert f(path) == 3"
        found = judge(worker, "def f(x): return 0", Assertions(tests, names={"f": "f"}), LIMITS)
        assert found.status == "grader_error"
        assert found.reason.endswith("programs do not see the files of the tests")
        right = judge(worker, "def f(x): return 3", Assertions(tests, names={"f": "f"}), LIMITS)
        assert right.status == "correct"


@pytest.mark.parametrize(
    ("body", "replaced", "asked"),
    [
        ("os.urandom(1)", "patch('os.urandom', return_value=b'a')", "b'a'"),
        ("os.remove('/nowhere')", "patch('os.remove')", "f()"),
        ("os.stat.side_effect.__name__", "patch('os.stat', side_effect=ValueError)", "'ValueError'"),
        ("os.write(99, b'')", "patch('os.write', return_value=1)", "1"),
        ("os.path.exists('/nowhere')", "patch('os.path.exists', return_value=True)", "True"),
        ("os.path.isfile('/no')", "patch.object(os.path, 'isfile', lambda p: True)", "True"),
        ("os.sep", "patch('os.sep', '|')", "'|'"),
        ("sys.argv", "patch('sys.argv', [1])", "[1]"),
        ("math.sqrt(4)", "patch('math.sqrt', return_value=3)", "3"),
        ("open('x').call_count", "patch('builtins.open')", "0"),
        ("sys.stdin.read()", "patch('sys.stdin', io.TextIOWrapper(io.BytesIO(b'a')))", "'a'"),
    ],
)  # fmt: skip
def test_what_tests_replace_in_vain_is_no_fault_of_the_program(worker, body, replaced, asked):
    program = f"import math, os, sys\ndef f(): return {body}"
    tests = f"import io, os\nfrom unittest.mock import patch, mock_open\nwith {replaced}: assert f() == {asked}"
    names = {}
    exec(f"{program}\n{tests}", names)
    found = judge(worker, program, Assertions(tests, names={"f": "f"}), LIMITS)
    assert found.status == "grader_error", found
