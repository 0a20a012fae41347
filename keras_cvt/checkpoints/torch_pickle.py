"""The tensors that a torch pickle describes, found without running the pickle.

A pickle is a program, and a state dict needs only a corner of its language. `pickle.Unpickler` with
a strict `find_class` would keep foreign code out, but not foreign appetite: the C unpickler
allocates its memo for whatever index the file names, hashes any object as a key (nested tuples make
that exponential), and calls `__setstate__` and friends on the way. So the instructions are walked
here, one by one. `pickletools.genops` only decodes them; no instruction allocates more than the
bytes that it occupies in the file, plus one small object; a global is looked up in a fixed table of
inert stand-ins; and whatever is not in that table, or not an instruction that a state dict needs,
is refused by name.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from keras_cvt.checkpoints.source import shown

MAX_BYTES = 16 << 20
"""Largest pickle that is looked at. The tensors' data are elsewhere; a name costs about 100 bytes."""

_MAX_INSTRUCTIONS = 1_000_000

# The memo lets a pickle name one big object many times at the price of a few bytes each, so whatever
# is done once per mention has to have a bound of its own.
_MAX_RANK = 32

_MAX_KEY = 100

_WRAPPERS = ("state_dict", "model", "model_state_dict")

_MAX_WRAPPING = 3

_STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}

# torch and numpy (with ml_dtypes) agree on these names.
_DTYPES = (*_STORAGE_DTYPES.values(), "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2")


@dataclass(frozen=True, slots=True)
class Storage:
    """A block of data outside the pickle.

    Attributes:
        key: Name of the record `data/<key>` in the archive.
        dtype: Name of the element type; `None` for bytes without a type.
        numel: Number of elements (of bytes, where `dtype` is `None`).
    """

    key: str
    dtype: str | None
    numel: int


@dataclass(frozen=True, slots=True)
class TorchTensor:
    """A view into a storage; `offset` and `strides` count elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Global:
    """What stands for an importable object: a name, and perhaps one of the functions below."""

    name: str
    call: Callable[[tuple], Any] | None = None
    dtype: str | None = None


def state_dict(data: bytes) -> dict[str, TorchTensor]:
    """Finds the state dict in the pickle of a torch checkpoint.

    It may be the pickled object itself, or lie in wrapping dicts under `"state_dict"`, `"model"` or
    `"model_state_dict"`. A prefix `module.` that all names share is taken off. Values that are not
    tensors are left out.

    Args:
        data: The pickle, the record `data.pkl` of the archive.

    Returns:
        The tensors by name, in the order of the file.

    Raises:
        ValueError: The pickle asks for something other than tensors, is damaged, or holds no or
            several state dicts.
    """
    root = _interpret(data)
    found = {id(each): each for each in _state_dicts(root, _MAX_WRAPPING)}
    if len(found) != 1:
        if type(root) is not dict:
            kind = "tensor" if type(root) is TorchTensor else type(root).__name__
            raise ValueError(f"it holds a {kind}, not a dict of tensors")
        keys = [shown(key) for key in root if type(key) is str]
        problem = "several state dicts" if found else "no tensors where a state dict keeps them"
        raise ValueError(f"it holds {problem}; its keys are {', '.join(keys[:10]) or 'none'}")
    (tensors,) = found.values()
    tensors = {name: value for name, value in tensors.items() if type(value) is TorchTensor}
    if not all(type(name) is str for name in tensors):
        raise ValueError("it holds a tensor whose name is not a string")
    prefix = "module."
    if all(name.startswith(prefix) for name in tensors):
        tensors = {name[len(prefix) :]: value for name, value in tensors.items()}
    return tensors


def _state_dicts(value: Any, depth: int) -> list[dict]:
    """The dicts of tensors in `value`: the wrapped ones, or else `value` itself."""
    if type(value) is not dict:
        return []
    if depth:
        wrapped = (_state_dicts(value.get(key), depth - 1) for key in _WRAPPERS)
        if found := [each for some in wrapped for each in some]:
            return found
    return [value] if any(type(each) is TorchTensor for each in value.values()) else []


def _check_counts(*counts: Any) -> None:
    if not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("a tensor's sizes, strides and offset are not all integers from 0 up")


def _make_tensor(args: tuple) -> TorchTensor:
    """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata=None)`.

    `_rebuild_tensor_v3` has the dtype before the metadata.
    """
    match args:
        case (Storage() as storage, offset, tuple() as shape, tuple() as strides, _, _, *rest):
            pass
        case _:
            raise ValueError("a tensor is described by the wrong arguments")
    dtype = storage.dtype
    if rest and type(rest[0]) is _Global and rest[0].dtype:
        dtype = rest.pop(0).dtype
    if dtype is None:
        raise ValueError("a tensor has no dtype")
    if rest and rest[0]:
        raise ValueError("a tensor is conjugated or negated lazily: save it after .resolve_conj()")
    if len(shape) != len(strides) or len(shape) > _MAX_RANK:
        raise ValueError(f"a tensor has {len(shape)} sizes and {len(strides)} strides")
    _check_counts(offset, *shape, *strides)
    return TorchTensor(storage, dtype, offset, shape, strides)


def _make_parameter(args: tuple) -> TorchTensor:
    """`_rebuild_parameter(data, requires_grad, hooks)`, with or without a state."""
    if not args or type(args[0]) is not TorchTensor:
        raise ValueError("a parameter is made of something that is not a tensor")
    return args[0]


def _make_dict(args: tuple) -> dict:
    if args:
        raise ValueError("an OrderedDict is made with arguments")
    return {}


def _make_size(args: tuple) -> tuple:
    match args:
        case (tuple() as sizes,):
            return sizes
    raise ValueError("a torch.Size is not made of a tuple")


def _make_storage(persistent_id: Any) -> Storage:
    if type(persistent_id) is not tuple:
        kind = type(persistent_id).__name__
        raise ValueError(f"refusing to load: a persistent id that is a {kind}, not a tuple")
    match persistent_id:
        case ("storage", _Global() as kind, str() as key, str(), int() as numel):
            if kind.name.endswith("Storage") and len(key) <= _MAX_KEY:
                _check_counts(numel)
                return Storage(key, kind.dtype, numel)
    raise ValueError("refusing to load: a persistent id that is not a torch storage")


def _known_globals() -> Iterable[_Global]:
    yield _Global("collections.OrderedDict", _make_dict)
    yield _Global("torch._utils._rebuild_tensor_v2", _make_tensor)
    yield _Global("torch._utils._rebuild_tensor_v3", _make_tensor)
    yield _Global("torch._utils._rebuild_parameter", _make_parameter)
    yield _Global("torch._utils._rebuild_parameter_with_state", _make_parameter)
    yield _Global("torch.Size", _make_size)
    yield _Global("torch.device", lambda args: None)
    yield _Global("torch.storage.UntypedStorage")
    yield _Global("torch.UntypedStorage")
    for name, dtype in _STORAGE_DTYPES.items():
        yield _Global(f"torch.{name}", dtype=dtype)
    for dtype in _DTYPES:
        yield _Global(f"torch.{dtype}", dtype=dtype)


_GLOBALS = {tuple(each.name.rsplit(".", 1)): each for each in _known_globals()}

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}

_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}

_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Stack:
    """The pickle machine's stack; each mark starts a fresh one on top of those below."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.below: list[list[Any]] = []

    def mark(self) -> None:
        self.below.append(self.items)
        self.items = []

    def pop_mark(self) -> list[Any]:
        if not self.below:
            raise ValueError("the pickle is damaged: a mark is missing")
        items, self.items = self.items, self.below.pop()
        return items

    def pop(self, count: int = 1) -> list[Any]:
        if len(self.items) < count:
            raise ValueError("the pickle is damaged: its stack is empty")
        items = self.items[-count:]
        del self.items[-count:]
        return items

    def top(self, kind: type) -> Any:
        if not self.items or type(self.items[-1]) is not kind:
            raise ValueError(f"the pickle is damaged: it fills a {kind.__name__} that is not there")
        return self.items[-1]


def _look_up(module: str, name: str) -> _Global:
    try:
        return _GLOBALS[module, name]
    except KeyError:
        raise ValueError(
            f"refusing to load: it asks for {shown(module)}.{shown(name)}, which no state dict needs; "
            "if you trust the file, load it with torch and save the state dict alone"
        ) from None


def _set_items(target: dict, items: list[Any]) -> None:
    if len(items) % 2:
        raise ValueError("the pickle is damaged: a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not str:
            # Only names matter; hashing anything else could be made to take forever.
            key = object()
        elif key in target:
            raise ValueError(f"the key {shown(key)} occurs twice in one dict")
        target[key] = value


def _set_state(target: dict, state: Any) -> None:
    # torch hangs the modules' versions on a state dict as the attribute _metadata.
    names = list(state) if type(state) is dict else ["something that is not a dict"]
    for name in names:
        if name != "_metadata":
            raise ValueError(f"refusing to load: it sets the state {shown(name)} of an OrderedDict")


def _interpret(data: bytes) -> Any:
    stack = _Stack()
    memo: dict[int, Any] = {}
    if len(data) > MAX_BYTES:
        raise ValueError(f"the pickle is {len(data)} bytes long; at most {MAX_BYTES} are read")
    for count, (op, arg, _) in enumerate(pickletools.genops(data)):
        if count == _MAX_INSTRUCTIONS:
            raise ValueError(f"the pickle has more than {_MAX_INSTRUCTIONS} instructions")
        name, push = op.name, stack.items.append
        if name in _LITERALS:
            push(arg)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name]())
        elif name in _SHORT_TUPLES:
            push(tuple(stack.pop(_SHORT_TUPLES[name])))
        elif name in ("BINGET", "LONG_BINGET"):
            if arg not in memo:
                raise ValueError("the pickle is damaged: it recalls what it never remembered")
            push(memo[arg])
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            (value,) = stack.pop()
            push(value)
            memo[len(memo) if name == "MEMOIZE" else arg] = value
        elif name == "MARK":
            stack.mark()
        elif name == "TUPLE":
            items = stack.pop_mark()
            stack.items.append(tuple(items))
        elif name == "APPEND":
            (item,) = stack.pop()
            stack.top(list).append(item)
        elif name == "APPENDS":
            items = stack.pop_mark()
            stack.top(list).extend(items)
        elif name == "SETITEM":
            items = stack.pop(2)
            _set_items(stack.top(dict), items)
        elif name == "SETITEMS":
            items = stack.pop_mark()
            _set_items(stack.top(dict), items)
        elif name == "GLOBAL":
            module, _, attribute = arg.partition(" ")
            push(_look_up(module, attribute))
        elif name == "STACK_GLOBAL":
            module, attribute = stack.pop(2)
            if type(module) is not str or type(attribute) is not str:
                raise ValueError("refusing to load: it asks for a global that has no name")
            push(_look_up(module, attribute))
        elif name == "REDUCE":
            function, args = stack.pop(2)
            if type(function) is not _Global or function.call is None or type(args) is not tuple:
                what = function.name if type(function) is _Global else type(function).__name__
                raise ValueError(f"refusing to load: it calls {what}")
            push(function.call(args))
        elif name == "BUILD":
            (state,) = stack.pop()
            _set_state(stack.top(dict), state)
        elif name == "BINPERSID":
            push(_make_storage(*stack.pop()))
        elif name == "STOP":
            (root,) = stack.pop()
            return root
        elif name == "INST":
            module, _, attribute = arg.partition(" ")
            _look_up(module, attribute)
            raise ValueError(f"refusing to load: it makes an instance of {shown(arg)}")
        elif name not in ("PROTO", "FRAME"):
            detail = "" if arg is None else f" {shown(arg)}"
            raise ValueError(
                f"refusing to load: it uses the pickle instruction {name}{detail}, "
                "which no state dict needs"
            )
    raise ValueError("the pickle is damaged: it does not end")
