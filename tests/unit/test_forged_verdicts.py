# ruff: noqa: E501 - programs are written on one line
"""A program that sits in a sandbox beside its tests' values cannot make a test pass that it fails."""

import pytest

from opdlab_evaluators.programs.judging import Assertions, judge
from opdlab_evaluators.sandbox.process import Limits

LIMITS = Limits(cpu_s=1, wall_s=2)

# Everything that an object can say about itself, in the program's favour.
FLATTERER = """
class Yes:
    def __init__(self, *a): pass
    def yes(self, *a): return True
    __eq__ = __le__ = __ge__ = __lt__ = __gt__ = __contains__ = __bool__ = __instancecheck__ = yes
    startswith = endswith = issubset = issuperset = isdisjoint = equals = all = any = yes
    def __ne__(self, o): return False
    def zero(self, *a): return 0
    __sub__ = __rsub__ = __mod__ = __rmod__ = __xor__ = __rxor__ = __pow__ = __floordiv__ = zero
    def same(self, o): return o
    __add__ = __radd__ = __mul__ = __rmul__ = __and__ = __or__ = __rand__ = __ror__ = same
    __hash__ = lambda s: 3
    def __array__(self, *a, **k):
        import numpy as np
        return np.array(3)
    def __array_function__(self, *a, **k): return True
    def __array_ufunc__(self, *a, **k): return True
    __array_priority__ = 1e9
    def __getattr__(self, name): return self.yes
    def __abs__(self): return -1
    def __round__(self, n=0): return self
    def __float__(self): return float('nan')
    def __iter__(self): return iter([self])
    def __len__(self): return 1
    def __reduce_ex__(self, n): return 'print', ()
    __class__ = property(lambda self: int)
"""
RAW = """
import os, json
def say(**message):
    t = json.dumps({'items': [None], 'nodes': [], 'raised': False, 'names': [], **message}).encode()
    t = len(t).to_bytes(4, 'big') + t
    while t: t = t[os.write(3, t):]
def heard():
    size = int.from_bytes(os.read(3, 4), 'big')
    text = b''
    while len(text) < size: text += os.read(3, size - len(text))
    return json.loads(text)
"""
COMPARISONS = {
    "==": "assert f(1) == 3",
    "== the other way": "assert 3 == f(1)",
    "not !=": "assert not f(1) != 3",
    "in a list": "assert f(1) in [3, 4]",
    "in a set": "assert f(1) in {3}",
    "as a member": "assert 3 in f(1) and 4 not in f(1)",
    "a list of it": "assert [f(1)] == [3]",
    "a dictionary of it": "assert {f(1): 1} == {3: 1}",
    "listed": "assert list(f(1)) == [3]",
    "nearly": "assert abs(f(1) - 3) < 1e-6",
    "nearly, the other way": "assert abs(3 - f(1)) < 1e-6",
    "rounded": "assert round(f(1), 2) == 3",
    "isclose": "import math\nassert math.isclose(f(1), 3)",
    "less": "assert f(1) < 4 and f(1) > 2",
    "remainder": "assert (f(1) - 3) % 2 == 0 and f(1) == 3",
    "allclose": "import numpy as np\nassert np.allclose(f(1), 3)",
    "numpy's own": "import numpy as np\nnp.testing.assert_allclose(f(1), 3)",
    "array_equal": "import numpy as np\nassert np.array_equal(f(1), np.array([3]))",
    "an array on the left": "import numpy as np\nassert (np.array([3]) == f(1)).all()",
    "almost equal": "import unittest\nunittest.TestCase().assertAlmostEqual(f(1), 3)",
    "equal": "import unittest\nunittest.TestCase().assertEqual(f(1), 3)",
    "its beginning": "assert f(1).startswith('abc')",
    "a subset": "assert f(1).issubset({1, 2})",
    "its type": "assert type(f(1)) is int",
    "its kind": "assert isinstance(f(1), int)",
    "its text": "assert str(f(1)) == '3'",
    "sorted": "assert sorted(f(1)) == [3]",
    "over a table": "for given, wanted in [(1, 3)]: assert f(given) == wanted",
    "by map": "assert list(map(f, [1])) == [3]",
    "summed": "assert sum([f(1)]) == 3",
    "the greatest": "assert max(f(1), 2) == 3",
    "a count": "assert [3, 3].count(f(1)) == 2",
}
FORMS = {
    "an object": "def f(x): return Yes()",
    "a class in the place of the function": "class f(Yes): pass",
    "an object in its place": "class G(Yes):\n    def __call__(self, x): return self\nf = G()",
    "an integer": "class I(Yes, int):\n    def __new__(cls): return int.__new__(cls, 77)\ndef f(x): return I()",
    "a text": "class S(Yes, str):\n    def __new__(cls): return str.__new__(cls, 'no')\ndef f(x): return S()",
    "a list": "class L(Yes, list): pass\ndef f(x): return L()",
    "a tuple": "class T(Yes, tuple): pass\ndef f(x): return T()",
    "a number with a point": "class F(Yes, float):\n    def __new__(cls): return float.__new__(cls, 77)\ndef f(x): return F()",
    "a dictionary": "class D(Yes, dict): pass\ndef f(x): return D()",
    "a set": "class E(Yes, set): pass\ndef f(x): return E()",
    "an array": "import numpy as np\nclass A(Yes, np.ndarray): pass\ndef f(x): return np.zeros(1).view(A)",
    "a class": "class M(type):\n    def __eq__(s, o): return True\n    __hash__ = type.__hash__\n    def __instancecheck__(s, o): return True\n"
    "class K(metaclass=M): pass\ndef f(x): return K",
}  # fmt: skip


def status(worker, program, tests, names=("f",), limits=LIMITS):
    asked = Assertions(tests, names={name: name for name in names})
    return judge(worker, program, asked, limits)


@pytest.mark.parametrize("form", FORMS)
def test_no_object_passes_for_the_value_that_is_asked_for(worker, form):
    """Each of the comparisons must fail; one assertion that did not would be the last line."""
    tried = "".join(
        f"def t{n}():\n" + "".join(f"    {line}\n" for line in tests.splitlines())
        for n, tests in enumerate(COMPARISONS.values())
    )
    tried += f"fooled = []\nfor n in range({len(COMPARISONS)}):\n    try: globals()[f't{{n}}']()\n"
    tried += "    except Exception: continue\n    fooled.append(n)\nraise SystemExit(fooled)"
    verdict = status(worker, FLATTERER + FORMS[form], tried)
    # An empty set is a subset, and an integer is one, whatever else it says of itself.
    honest = {"an integer": ["its kind"], "a set": ["a subset"]}.get(form, [])
    numbers = [list(COMPARISONS).index(name) for name in honest]
    assert verdict.reason.partition(" at ")[0] == f"SystemExit: {numbers}", verdict.reason


PAIR = "class Pair:\n    def __init__(self, *a): pass\n    def __eq__(self, o): return True\n    __hash__ = None\n"
BORROWED = {
    "given back": "def f(p): return p[0]",
    "given back in a list": "def f(p): return [p[0]] if len(p) > 1 else p[0]",
    "made anew": "def f(p): return Pair()",
    "kept": "K = []\ndef f(p):\n    K.append(p[0])\n    return K[0]",
    "kept when it was made": PAIR.replace("pass", "K.append(self)")
    + "K = []\ndef f(p): return K[0]",
}


@pytest.mark.parametrize("name", BORROWED)
def test_an_object_that_the_tests_made_equals_nothing_once_it_was_out_of_their_hands(worker, name):
    tests = (
        "p = [Pair(1), Pair(2)]\nfor wanted in (3, [3]):\n    assert not f(p) == wanted and not f(p) in [3]\n"
        "assert not f([Pair(1)]) == 3"
    )
    program = PAIR + BORROWED[name]
    assert status(worker, program, tests, ("f", "Pair")).status == "correct"


def test_a_class_that_gives_the_same_object_again_does_not_make_it_trusted_again(worker):
    program = PAIR + "one = Pair()\nPair.__new__ = lambda *a: one\ndef f(p): return one"
    tests = "p = Pair(1)\nfound = f(p)\nq = Pair(2)\nassert not found == 3 and not q == 3"
    assert status(worker, program, tests, ("f", "Pair")).status == "correct"


ATTACKS = {
    "the tests' frames": "import sys\ndef f(x):\n    n = 0\n    while True:\n        try: g = sys._getframe(n)\n        except ValueError: return 0\n"
    "        for v in g.f_globals.values():\n            if 'assert' in str(v): raise SystemExit\n        n += 1",
    "objects in memory": "import gc\ndef f(x):\n    for o in gc.get_objects():\n        if isinstance(o, dict) and 'passed' in o: o['passed'] = True\n    return 0",
    "the code that serves": "import sys\ndef f(x):\n    for name, m in list(sys.modules.items()):\n        if name.startswith('inside.'):\n"
    "            for k in list(vars(m)):\n                if k in ('send', 'forward', 'NonsenseError'): setattr(m, k, lambda *a: None)\n    return 0",
    "assertions switched off": "import builtins, sys\nbuiltins.AssertionError = None\nsys.flags = None\n__debug__ if True else 0\ndef f(x): return 0",
    "tracing": "import sys, threading\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef f(x): return 0",
    "at the end": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef f(x): return 0",
    "ends well in the middle": "import os\ndef f(x): os._exit(0)",
    "the end as an expected error": "import os\ndef f(x):\n    if x == 1: os._exit(0)\n    raise ValueError",
    "closes the channel": "import os\ndef f(x):\n    os.close(3)\n    return 0",
    "another program in its place": "import os\ndef f(x): os.execv('/python/bin/python', ['python', '-c', 'pass'])",
    "memory of the process": "import ctypes\ndef f(x):\n    ctypes.memset(id(3) + 16, 0, 16) if False else None\n    ctypes.c_long.from_address(id(3) + 24).value = 0\n    return 0",
    "the end of an iteration": "def f(x): raise StopIteration",
    "a generator's end": "def f(x): raise GeneratorExit",
    "leaving": "def f(x): raise SystemExit(0)",
    "an interrupt": "def f(x): raise KeyboardInterrupt",
    "an error of its own kind": "class E(BaseException):\n    def __new__(cls, *a): return BaseException.__new__(cls)\n    def __str__(self): raise self\ndef f(x): raise E",
    "names of the tests": RAW + "def f(x):\n    say(items=[3, 3, 3], names=['f', 'g'])\n    os._exit(0)",
    "the tests' built-ins": RAW + "def f(x):\n    say(items=[3, ['g', 'builtins', 'dict']], names=['__builtins__'])\n    os._exit(0)",
    "a type by its name": RAW + "def f(x):\n    say(items=[['g', 'os', '_exit']])\n    os._exit(0)",
    "a module by its name": RAW + "def f(x):\n    say(items=[['g', 'sys', 'modules']])\n    os._exit(0)",
    "a verdict": RAW + "def f(x):\n    say(passed=True)\n    say(phase='asked')\n    os._exit(0)",
    "a type that is made": RAW + "def f(x):\n    say(items=[[-1]], nodes=[['made', -1, ['0'], 'os.system']])\n    os._exit(0)",
    "an array of objects": RAW + "def f(x):\n    say(items=[[-1]], nodes=[['array', -1, ['|O', [1], '00' * 8]]])\n    os._exit(0)",
    "an array without end": RAW + "def f(x):\n    say(items=[[-1]], nodes=[['array', -1, ['<i8', [10 ** 12], '']]])\n    os._exit(0)",
    "a class of the judge's": RAW + "def f(x):\n    say(items=[[1]], nodes=[['class', 1, [['g', 'builtins', 'type']], 'K', 'tests', ['__instancecheck__']]])\n    os._exit(0)",
    "a class like a boolean": RAW + "def f(x):\n    say(items=[[1]], nodes=[['class', 1, [['g', 'builtins', 'bool']], 'K', 'tests', []]])\n    os._exit(0)",
    "a stand-in that equals": RAW + "def f(x):\n    say(items=[[3]], nodes=[['class', 1, [], 'K', 'tests', ['__eq__', '__class__', '__getattribute__']], ['far', 3, [[1]], 'object']])\n"
    "    while True:\n        heard()\n        say(items=[True])",
    "numbers of the judge": RAW + "def f(x):\n    say(items=[[2]], nodes=[['list', 2, [3], []]])\n    os._exit(0)",
    "numbers of nothing": RAW + "def f(x):\n    say(items=[[999]])\n    os._exit(0)",
    "numbers below": RAW + "def f(x):\n    say(items=[[-999]])\n    os._exit(0)",
    "asking for nothing": RAW + "def f(x):\n    say(ask='call', items=[3, [-1], [-2]], nodes=[['tuple', -1, []], ['tuple', -2, []]])\n    os._exit(0)",
    "asking to evaluate": RAW + "def f(x):\n    say(ask='eval', items=['1'])\n    os._exit(0)",
    "deep nonsense": "import os\nt = b'[' * 100000\ndef f(x):\n    os.write(3, len(t).to_bytes(4, 'big') + t)\n    os._exit(0)",
    "digits without end": "import os\nt = b'9' * 3000000\ndef f(x):\n    n = len(t).to_bytes(4, 'big') + t\n    while n: n = n[os.write(3, n):]\n    os._exit(0)",
    "answers before the questions": RAW + "say(items=[None, ['g', 'builtins', 'int']], names=['f'])\nfor n in range(50): say(items=[3])\ndef f(x): return 0",
    "a refusal taken back": RAW + "say(refused='no')\ndef f(x): return 0",
    "functions found in memory": "import gc, types\ndef f(x):\n    for o in gc.get_objects():\n        if isinstance(o, types.FunctionType) and o.__name__ in ('_written','carry'):\n            try: o.__code__=(lambda *a,**k: None).__code__\n            except Exception: pass\n    return 0",
    "a hook of imports": 'import sys\nclass F:\n    def find_spec(self,*a): raise SystemExit(0)\nsys.meta_path.insert(0,F())\ndef f(x): return 0',
    "a hook of audits": "import sys, os\nsys.addaudithook(lambda e,a: os._exit(0) if e=='os.write' else None)\ndef f(x): return 0",
    "a trace that changes the peer": "import sys\ndef t(f,e,a):\n    if 'self' in f.f_locals: f.f_locals['self'].__dict__.update(broken='')\n    return t\nsys.settrace(t)\ndef f(x): return 0",
    "a signal that ends it": 'import signal, os\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\nsignal.setitimer(signal.ITIMER_REAL,0.05)\ndef f(x):\n    while True: pass',
    "a child that answers later": "import os, json, time\nif os.fork()==0:\n    t=json.dumps({'items':[True],'nodes':[],'raised':False,'names':[]}).encode()\n    for _ in range(50):\n        os.write(3,len(t).to_bytes(4,'big')+t); time.sleep(0.01)\n    os._exit(0)\ndef f(x): return 0",
    "a daemon with a verdict": "import os, json\nif os.fork()==0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n    t=json.dumps({'passed':True}).encode()\n    for fd in range(64):\n        try: os.write(fd,len(t).to_bytes(4,'big')+t)\n        except OSError: pass\n    os._exit(0)\ndef f(x): return 0",
    "a thread that writes": "import os, json, threading, time\ndef go():\n    t=json.dumps({'passed':True,'items':[True],'nodes':[],'raised':False,'names':[]}).encode()\n    while True:\n        try: os.write(3,len(t).to_bytes(4,'big')+t)\n        except OSError: return\n        time.sleep(0.001)\nthreading.Thread(target=go,daemon=True).start()\ndef f(x):\n    time.sleep(0.02); return 0",
    "the end of an object": 'import os\nclass D:\n    def __del__(self): os._exit(0)\ndef f(x):\n    D(); return 0',
    "output of its own making": RAW + "def f(x):\n    say(printed='passed '*1000)\n    os._exit(0)",
    "more input than there is": RAW + 'def f(x):\n    say(taken=10**9)\n    os._exit(0)',
    "output that is not a text": RAW + "def f(x):\n    say(printed={'a':1}, taken=-5)\n    os._exit(0)",
    "methods of an integer": RAW + "def f(x):\n    say(items=[[103]], nodes=[['class',101,[['g','builtins','int']],'K','tests',['real','numerator','conjugate','bit_length','__eq__','__class__']],['far',103,[[101],77],'int']])\n    while True:\n        heard(); say(items=[3])",
    "methods of a text": RAW + "def f(x):\n    say(items=[[103]], nodes=[['class',101,[['g','builtins','str']],'K','tests',['startswith','endswith','upper','lower','strip','__eq__']],['far',103,[[101],'no'],'str']])\n    while True:\n        heard(); say(items=[True])",
    "parts of a stand-in": RAW + "def f(x):\n    say(items=[[103]], nodes=[['class',101,[],'K','tests',['carrier','mro']],['far',103,[[101]],'object']])\n    while True:\n        heard(); say(items=[True])",
    "hooks of a class": RAW + "def f(x):\n    say(items=[[101]], nodes=[['class',101,[],'K','tests',['__eq__','__instancecheck__','__subclasscheck__','__set_name__','__init_subclass__','__prepare__','__hash__']]])\n    while True:\n        heard(); say(items=[True])",
    "a class like a built-in function": RAW + "def f(x):\n    say(items=[[103]], nodes=[['class',101,[],'builtin_function_or_method','builtins',['__eq__']],['far',103,[[101]],'object']])\n    while True:\n        heard(); say(items=[True])",
    "a pattern that is none": RAW + "def f(x):\n    say(items=[[-1]], nodes=[['made',-1,[['b','00'],[1]],'Pattern']])\n    os._exit(0)",
    "a map of none": RAW + "def f(x):\n    say(items=[[-1]], nodes=[['made',-1,[3],'ChainMap']])\n    os._exit(0)",
    "a name of the judge's changed": RAW + "def f(x):\n    say(ask='set', items=[['g','builtins','int'],'__name__','x'])\n    print(heard())\n    os._exit(0)",
    "asking to wait": RAW + "def f(x):\n    say(ask='await', items=[1])\n    os._exit(0)",
    "hooks of errors": 'import sys, os\nsys.excepthook=lambda *a: os._exit(0)\nsys.unraisablehook=lambda *a: os._exit(0)\ndef f(x): raise ValueError',
    "the judge's clock": "import os\ndef f(x):\n    n=0\n    for fd in range(3,64):\n        try: os.pwrite(fd,b'\\x00'*16,0); n+=1\n        except OSError: pass\n    return n",
    "truth changed in memory": 'import ctypes\ndef f(x):\n    ctypes.memset(id(True)+16,0,8)\n    return 0',
    "comparisons replaced": 'import builtins, operator\nbuiltins.isinstance=lambda *a: True\nbuiltins.bool=lambda *a: True\noperator.eq=lambda *a: True\ndef f(x): return 0',
    "no room to answer": 'import sys\ndef f(x):\n    sys.setrecursionlimit(30)\n    return [[[[[0]]]]]',
    "links to the channel": "import os\nfor n in ('/inside/guest.py','/tmp/x'):\n    try: os.symlink('/proc/self/fd/3',n)\n    except OSError: pass\ndef f(x): return 0",
    "a pickle that runs": "import pickle\nclass R:\n    def __reduce__(self): return (exec,('passed=True',))\ndef f(x): return R()",
    "a flood of output": "import sys\ndef f(x):\n    sys.stdout.write('x'*(30<<20)); sys.stdout.flush(); return 0",
    "a full file system": "def f(x):\n    with open('/tmp/fill','wb') as o:\n        try:\n            while True: o.write(b'x'*(1<<20))\n        except OSError: pass\n    return 0",
    "an array of objects by hand": RAW + "def f(x):\n    say(items=[[101]], nodes=[['array',101,['|O',['b','0300000000000000'],True,1],[]]])\n    while True: heard(); say()",
    "an array of no size": RAW + "def f(x):\n    say(items=[[101]], nodes=[['array',101,['<i8',['b',''],True,1<<40],[]]])\n    while True: heard(); say()",
    "an array of empty texts": RAW + "def f(x):\n    say(items=[[101]], nodes=[['array',101,['<U0',['b',''],True,1<<40],[]]])\n    while True: heard(); say()",
    "a typed array of no type": RAW + "def f(x):\n    say(items=[[101]], nodes=[['typed array',101,[1,2],['u']]])\n    while True: heard(); say()",
    "a namespace with operators": RAW + "def f(x):\n    say(items=[[101]], nodes=[['SimpleNamespace',101,['__eq__',1,'__class__',2],[]]])\n    while True: heard(); say()",
    "a view of nothing": RAW + "def f(x):\n    say(items=[[-1]], nodes=[['made',-1,[3],'keys']])\n    while True: heard(); say()",
    "a type that is none": RAW + "def f(x):\n    say(items=[[-1]], nodes=[['made',-1,[3,4],'alias']])\n    while True: heard(); say()",
    "memory of a text": RAW + "def f(x):\n    say(items=[[-1]], nodes=[['made',-1,['abc'],'memoryview']])\n    while True: heard(); say()",
    "a class that takes everything": 'from typing import Protocol, runtime_checkable\nclass M(type):\n    def __instancecheck__(c,v): return True\n    def __eq__(c,o): return True\n    __hash__=type.__hash__\nclass R(metaclass=M):\n    def __eq__(s,o): return True\ndef f(x): return R()',
    "asking what it is": RAW + "def f(x):\n    say(ask='isinstance', items=[['g','builtins','int'],3], nodes=[])\n    heard()\n    os._exit(0)",
    "fields that are operators": RAW + "def f(x):\n    say(items=[[103]], nodes=[['class',101,[],'K','tests',['__eq__'],['real','class','__eq__']],['far',103,[[101]],'object']])\n    while True: heard(); say(items=[True])",
    "very many fields": RAW + "def f(x):\n    say(items=[[103]], nodes=[['class',101,[],'K','tests',['__eq__'],['a%d'%i for i in range(5000)]],['far',103,[[101]],'object']])\n    while True: heard(); say(items=[True])",
    "an error that caused itself": RAW + "def f(x):\n    say(items=[[-1]], nodes=[['error',-1,[['g','builtins','ValueError'],[-1],None,False]]], raised=True)\n    while True: heard(); say(items=[3])",
    "an error from a number": RAW + "def f(x):\n    say(items=[[-1]], nodes=[['error',-1,[['g','builtins','ValueError'],3,None,False]]], raised=True)\n    while True: heard(); say(items=[3])",
    "a number that JSON lacks": RAW + 'def f(x):\n    t=b\'{"items":[NaN],"nodes":[],"names":[]}\'\n    os.write(3,len(t).to_bytes(4,\'big\')+t)\n    os._exit(0)',
    "a number of many digits": RAW + 'def f(x):\n    t=b\'{"items":[\'+b\'9\'*5000+b\'],"nodes":[]}\'\n    os.write(3,len(t).to_bytes(4,\'big\')+t)\n    os._exit(0)',
    "a float that equals all": 'class F(float):\n    def __eq__(s,o): return True\n    def __sub__(s,o): return 0\n    __rsub__=__sub__\ndef f(x): return F(9)',
    "an integer that equals all": 'class F(int):\n    def __eq__(s,o): return True\n    def __ne__(s,o): return False\n    def __hash__(s): return hash(3)\ndef f(x): return F(9)',
    "a container of nobody": RAW + "def f(x):\n    say(items=[3], nodes=[['list',2,[1,2,3],[]]])\n    os._exit(0)",
    "verdicts found in memory": "import sys, gc\ndef f(x):\n    for o in gc.get_objects():\n        try:\n            if isinstance(o, dict) and 'passed' in o: o['passed']=True\n        except Exception: pass\n    fr=sys._getframe()\n    while fr:\n        for k,v in list(fr.f_locals.items()):\n            if hasattr(v,'trusted'): v.trusted=None\n        fr=fr.f_back\n    return 0",
    "a fork that answers instead": "import os\ndef f(x):\n    if os.fork(): return 0\n    return 3 * x",
    "a fork that answers later": "import os\ndef f(x):\n    child = os.fork()\n    if child: os.waitpid(child, 0)\n    return 0 if child else 3 * x",
    "a fork from the beginning": "import os\nforks = [os.fork() for _ in range(3)]\ndef f(x): return 0 if all(forks) else 3 * x",
    "what equals anything": "from unittest.mock import ANY\ndef f(x): return ANY",
    "every descriptor": "import os, json\nt = json.dumps({'passed': True, 'items': [3], 'nodes': [], 'names': []}).encode()\ndef f(x):\n"
    "    for fd in range(4096):\n        try: os.write(fd, len(t).to_bytes(4, 'big') + t)\n        except OSError: pass\n    return 0",
    "memory of the other processes": "import ctypes, os\nlibc = ctypes.CDLL(None)\ndef f(x):\n    for p in [os.getppid(), 1]:\n        libc.ptrace(16, p, 0, 0)\n"
    "        for n in (9, 15, 19):\n            try: os.kill(p, n)\n            except OSError: pass\n    return 0",
    "the channel turned off": "import socket\ndef f(x):\n    socket.socket(fileno=3).shutdown(2)\n    return 0",
    "a thread that reads the questions": "import os, threading\ndef eat():\n    while True: os.read(3, 1)\nthreading.Thread(target=eat, daemon=True).start()\ndef f(x): return 0",
    "a class of a class": RAW + "def f(x):\n    say(items=[[103]], nodes=[['class',101,[],'M','tests',['__eq__','__hash__','__instancecheck__','__call__'],None,'metaclass'],['class',103,[[101]],'K','tests',['__eq__'],None,'of a metaclass']])\n    while True: heard(); say(items=[True])",
    "a class of a class that is none": RAW + "def f(x):\n    say(items=[[103]], nodes=[['class',103,[['g','builtins','int']],'K','tests',['__eq__'],None,'of a metaclass']])\n    while True: heard(); say(items=[True])",
    "a class on a class of classes": RAW + "def f(x):\n    say(items=[[103]], nodes=[['class',101,[],'M','tests',[],None,'metaclass'],['class',103,[[101]],'K','tests',['__eq__'],None]])\n    while True: heard(); say(items=[True])",
    "a class of classes with the judge's parts": RAW + "def f(x):\n    say(items=[[101]], nodes=[['class',101,[],'M','tests',['carrier','__new__','__init__','__setattr__','__getattr__','mro'],None,'metaclass']])\n    while True: heard(); say(items=[True])",
    "functions put in the judge's place": RAW + "def f(x):\n    say(items=[3,['g','builtins','int']], patched=[['builtins','len']])\n    os._exit(0)",
    "a class that equals and orders": 'class M(type):\n    def yes(c, o): return True\n    __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = __instancecheck__ = yes\n    def __sub__(c, o): return 0\n    __abs__ = __hash__ = lambda c: 3\nclass A(metaclass=M): pass\ndef f(x): return A',
    "limits beyond all": RAW + "def f(x):\n    say(items=[0], limits={'recursion': 10 ** 9, 'digits': 0, 'precision': 10 ** 18})\n    while True: heard(); say(items=[0])",
    "limits that let nothing through": RAW + "def f(x):\n    say(items=[0], limits={'recursion': 1, 'digits': 1, 'precision': 1})\n    while True: heard(); say(items=[0])",
    "limits that are none": RAW + "def f(x):\n    say(items=[0], limits={'recursion': 'x', 'trust': 1})\n    while True: heard(); say(items=[0])",
    "abstract classes by hand": RAW + "def f(x):\n    say(items=[[103]], nodes=[['class',101,[],'K','tests',['__eq__','__iter__','__len__','collections.abc.Mapping','collections.abc.Set'],None],['far',103,[[101]],'object']])\n    while True: heard(); say(items=[True])",
    "an end while it answers": 'import threading, os, time\nthreading.Thread(target=lambda:(time.sleep(0.02),os._exit(0)),daemon=True).start()\ndef f(x): time.sleep(0.1); return 0',
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_makes_a_test_pass(worker, name):
    tests = (
        "if f(2) != 6:\n    try: f(1)\n    except ValueError: pass\nassert f(1) == 3 and f(2) == 6"
    )
    for tried in (tests, "try: f(1)\nexcept Exception: pass\nassert f(1) == 3 and f(2) == 6"):
        verdict = status(worker, ATTACKS[name], tried)
        assert (verdict.status, bool(verdict.reason)) == ("wrong", True), verdict
    assert status(worker, "def f(x): return 3 * x", "assert f(1) == 3").status == "correct"


FLATTERING = "class P:\n    def __init__(self, x=0): pass\n    def __eq__(self, o): return True\n    __hash__ = None\n"


@pytest.mark.parametrize(
    "more",
    [
        "class f(P): pass",
        "def f(x): return type('T', (P,), {})()",
        "def f(x): return 0\nclass M(type):\n    def __new__(m, n, b, d):\n        global f\n        f = type.__new__(m, n, b, d)\n"
        "        return f\nclass P(P, metaclass=M): pass",
        "class f(P): pass\nclass M(type):\n    def __new__(m, n, b, d): return f if n == 'T' else type.__new__(m, n, b, d)\n"
        "class P(P, metaclass=M): pass",
    ],
)  # fmt: skip
def test_a_class_that_tests_derive_lends_its_trust_to_no_other(worker, more):
    tests = "class T(P): pass\nassert P(1) == 3 and f(1) == 3"
    assert status(worker, FLATTERING + more, tests, ("P", "f")).status == "wrong"
    fine = FLATTERING + "def f(x): return 3"
    assert status(worker, fine, tests + "\nassert T(1) == 5", ("P", "f")).status == "correct"


def test_what_failed_in_a_with_statement_of_the_tests_is_not_swallowed_by_the_program(worker):
    program = "class C:\n    def __enter__(self): return 0\n    def __exit__(self, *a): return True"
    assert status(worker, program, "with C() as v: assert v == 3", ("C",)).status == "wrong"
    raised = "with C(): raise KeyError\nassert C().__enter__() == 0"
    assert status(worker, program, raised, ("C",)).status == "correct"


def test_a_mock_of_the_tests_leads_nowhere(worker):
    tests = "from unittest.mock import patch\nwith patch('builtins.input', return_value='no') as m:\n    assert f(1) == 3"
    for program in (
        "def f(x): return input.__globals__['f']",
        "def f(x): return input.__closure__[0].cell_contents",
        "def f(x):\n    input.return_value = 3\n    return input()",
        "def f(x): return input",
    ):
        assert status(worker, program, tests).status == "wrong"
    assert status(worker, "def f(x): return len(input()) + 1", tests).status == "correct"


@pytest.mark.parametrize(
    "body",
    [
        "m.assert_called_once_with = lambda *a: None",
        "m.configure_mock(**{'assert_called_once_with.side_effect': None})",
        "m.call_count = 1",
        "m.reset_mock()",
        "m.mock_calls.clear()",
        "m(2)",
    ],
)
def test_a_program_cannot_change_what_a_mock_of_the_tests_was_called_with(worker, body):
    tests = "from unittest.mock import Mock\nm = Mock()\nf(m)\nm.assert_called_once_with(1)"
    assert status(worker, f"def f(m): {body}", tests).status in ("wrong", "grader_error")
    assert status(worker, "def f(m): m(1)", tests).status == "correct"


LENT = {
    "its globals": "def f(g): return g.__globals__",
    "its code": "def f(g): return g.__code__.co_consts",
    "its closure": "def f(g): return g.__closure__[0].cell_contents",
    "by hand": RAW + "def f(g):\n    number = max(P.objects)\n    say(ask='get', items=[[number], '__globals__'])\n    return heard()",
    "its frame": RAW + "def f(g):\n    say(ask='get', items=[[2], 'gi_frame'])\n    r = heard()\n    if r['raised']: raise SystemExit\n    return 0",
    "its class": RAW + "def f(g):\n    say(ask='do', items=[[2], '__getattribute__', [-1]], nodes=[['tuple', -1, ['__globals__']]])\n"
    "    r = heard()\n    if r['raised']: raise SystemExit\n    return 0",
}  # fmt: skip


@pytest.mark.parametrize("name", LENT)
@pytest.mark.parametrize("lent", ["lambda: secret", "(secret for _ in [1])", "T()", "T"])
def test_what_the_tests_lend_leads_nowhere(worker, name, lent):
    tests = f"secret = 3\nclass T: pass\ndef outer():\n    hidden = 3\n    return lambda: hidden\nassert f({lent}) == 3"
    assert status(worker, LENT[name], tests).status == "wrong"
    assert status(worker, LENT[name], tests.replace(f"f({lent})", "f(outer())")).status == "wrong"


COSTLY = {
    "numbers that collide": "def f(x): return {(2**61 - 1) * i for i in range(8000)}",
    "the same by hand": RAW + "def f(x):\n    say(items=[[1]], nodes=[['set', 1, [['i', hex((2**61 - 1) * i)] for i in range(150000)], []]])\n    os._exit(0)",
    "lists of them": "S = {(2**61 - 1) * i for i in range(2000)}\ndef f(x): return [set(S) for _ in range(100)]",
    "a fraction without end": RAW + "def f(x):\n    say(items=[[-1]], nodes=[['made', -1, ['1e999999999'], 'Fraction']])\n    os._exit(0)",
    "more than memory": RAW + "def f(x):\n    say(items=[[1]], nodes=[['list', 1, [[]] * 6000000, []]])\n    os._exit(0)",
    "an echo without end": "def f(x, g=None):\n    while True: g()",
}  # fmt: skip


@pytest.mark.parametrize("name", COSTLY)
def test_what_costs_too_much_to_compare_is_wrong(worker, name, monkeypatch):
    limits = Limits(cpu_s=0.3, wall_s=20, memory=128 << 20)
    monkeypatch.setattr("opdlab_evaluators.programs.judging.JUDGE_LIMITS", limits)
    call = "f(1, lambda: 0)" if "echo" in name else "f(1)"
    verdict = status(worker, COSTLY[name], f"assert {call} == 3", limits=Limits(cpu_s=8, wall_s=30))
    assert verdict.status == "wrong", verdict
    assert status(worker, "def f(x): return 3 * x", "assert f(1) == 3").status == "correct"
