"""The tensors that a torch pickle describes, found without running the pickle.

A pickle is a program, and a state dict needs only a corner of its language. `pickle.Unpickler` with
a strict `find_class` would keep foreign code out, but not foreign appetite: the C unpickler
allocates its memo for whatever index the file names, hashes any object as a key (nested tuples make
that exponential), and calls `__setstate__` and friends on the way. So the instructions are walked
here, one by one. `pickletools.genops` only decodes them; no instruction allocates more than the
bytes that it occupies in the file, plus one small object; a global is looked up in a fixed table of
inert stand-ins; and whatever is not in that table, or not in that of the instructions, is refused by
name.

From top to bottom: the state dict in what a pickle makes, the stand-ins for globals, the instructions,
and the loop that follows them.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from keras_cvt.checkpoints.source import MAX_RANK, shown

MAX_BYTES = 16 << 20
"""Largest pickle that is looked at. The tensors' data are elsewhere; a name costs about 100 bytes."""

_MAX_INSTRUCTIONS = 1_000_000

# The memo lets a pickle name one big object many times at the price of a few bytes each, so whatever
# is done once per mention has to have a bound of its own.
_MAX_KEY = 100

_MAX_WRAPPING = 3
"""In how many dicts a state dict may lie."""

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

    It may be the pickled object itself, or lie under any key of up to three dicts around it: the one
    dict of tensors that are named as modules name them. Values that are not tensors are left out.

    Args:
        data: The pickle, the record `data.pkl` of the archive.

    Returns:
        The tensors by name, in the order of the file.

    Raises:
        ValueError: The pickle asks for something other than tensors, is damaged, or holds no or
            several state dicts.
    """
    root = _interpret(data)
    found = _state_dicts(root)
    if len(found) != 1:
        if type(root) is not dict:
            kind = "tensor" if type(root) is TorchTensor else type(root).__name__
            raise ValueError(f"it holds a {kind}, not a dict of tensors")
        if found:
            paths = [" > ".join(map(shown, path)) or "the outermost" for path in list(found)[:10]]
            where = " and ".join(paths)
            raise ValueError(
                f"it holds several state dicts: {where}; save the one that is meant alone"
            )
        keys = [shown(key) for key in root if type(key) is str]
        raise ValueError(
            "it holds no tensors where a state dict keeps them; its keys are "
            f"{', '.join(keys[:10]) or 'none'}"
        )
    (tensors,) = found.values()
    tensors = {name: value for name, value in tensors.items() if type(value) is TorchTensor}
    if not all(type(name) is str for name in tensors):
        raise ValueError("it holds a tensor whose name is not a string")
    return tensors


def _state_dicts(root: Any) -> dict[tuple[str, ...], dict]:
    """The dicts of tensors in `root`, by the keys that lead to them.

    The names of a module's tensors have dots; those of an optimizer's state, and of single tensors
    such as a best accuracy, have none. Only where no dict has such names, the outermost are meant
    that have more than numbers.
    """
    named: dict[tuple[str, ...], dict] = {}
    others: dict[tuple[str, ...], dict] = {}
    level: dict[tuple[str, ...], dict] = {(): root} if type(root) is dict else {}
    seen = set()  # the memo may mention one dict many times
    for _ in range(_MAX_WRAPPING + 1):
        plain, below = {}, {}
        for path, value in level.items():
            if id(value) in seen:
                continue
            seen.add(id(value))
            names = [name for name, each in value.items() if type(each) is TorchTensor]
            if any(type(name) is str and "." in name for name in names):
                named[path] = value
            elif any(value[name].shape for name in names):
                plain[path] = value
            for key, each in value.items():
                if type(each) is dict and type(key) is str:
                    below[*path, key] = each
        others = others or plain
        level = below
    return named or others


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
    if len(shape) != len(strides) or len(shape) > MAX_RANK:
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


class _Machine:
    """What instructions work on: a memo, and a stack, on which each mark starts a fresh one."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, item: Any) -> None:
        self.items.append(item)

    def pop(self) -> Any:
        (item,) = self.pop_several(1)
        return item

    def pop_several(self, count: int) -> list[Any]:
        if len(self.items) < count:
            raise ValueError("the pickle is damaged: its stack is empty")
        items = self.items[-count:]
        del self.items[-count:]
        return items

    def mark(self) -> None:
        self.below.append(self.items)
        self.items = []

    def pop_mark(self) -> list[Any]:
        """Everything above the last mark, which is taken off, too."""
        if not self.below:
            raise ValueError("the pickle is damaged: a mark is missing")
        items, self.items = self.items, self.below.pop()
        return items

    def top(self, kind: type) -> Any:
        """What lies on top, and stays there to be filled."""
        if not self.items or type(self.items[-1]) is not kind:
            raise ValueError(f"the pickle is damaged: it fills a {kind.__name__} that is not there")
        return self.items[-1]


# ---- instructions: each takes the machine and the argument that the pickle gives it


def _literal(machine: _Machine, value: Any) -> None:
    machine.push(value)


def _constant(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(make())


def _short_tuple(length: int) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.push(tuple(machine.pop_several(length)))


def _mark(machine: _Machine, _: Any) -> None:
    machine.mark()


def _tuple(machine: _Machine, _: Any) -> None:
    items = machine.pop_mark()
    machine.push(tuple(items))


def _append(machine: _Machine, _: Any) -> None:
    item = machine.pop()
    machine.top(list).append(item)


def _appends(machine: _Machine, _: Any) -> None:
    items = machine.pop_mark()
    machine.top(list).extend(items)


def _set_item(machine: _Machine, _: Any) -> None:
    items = machine.pop_several(2)
    _fill(machine.top(dict), items)


def _set_items(machine: _Machine, _: Any) -> None:
    items = machine.pop_mark()
    _fill(machine.top(dict), items)


def _fill(target: dict, items: list[Any]) -> None:
    if len(items) % 2:
        raise ValueError("the pickle is damaged: a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) is not str:
            # Only names matter; hashing anything else could be made to take forever.
            key = object()
        elif key in target:
            raise ValueError(f"the key {shown(key)} occurs twice in one dict")
        target[key] = value


def _remember(machine: _Machine, place: int | None) -> None:
    value = machine.pop()
    machine.push(value)
    machine.memo[len(machine.memo) if place is None else place] = value


def _recall(machine: _Machine, place: int) -> None:
    if place not in machine.memo:
        raise ValueError("the pickle is damaged: it recalls what it never remembered")
    machine.push(machine.memo[place])


def _global(machine: _Machine, names: str) -> None:
    module, _, name = names.partition(" ")
    machine.push(_look_up(module, name))


def _stack_global(machine: _Machine, _: Any) -> None:
    module, name = machine.pop_several(2)
    if type(module) is not str or type(name) is not str:
        raise ValueError("refusing to load: it asks for a global that has no name")
    machine.push(_look_up(module, name))


def _instance(machine: _Machine, names: str) -> None:
    module, _, name = names.partition(" ")
    _look_up(module, name)
    raise ValueError(f"refusing to load: it makes an instance of {shown(names)}")


def _look_up(module: str, name: str) -> _Global:
    try:
        return _GLOBALS[module, name]
    except KeyError:
        raise ValueError(
            f"refusing to load: it asks for {shown(module)}.{shown(name)}, which no state dict needs; "
            "if you trust the file, load it with torch and save the state dict alone"
        ) from None


def _call(machine: _Machine, _: Any) -> None:
    function, args = machine.pop_several(2)
    if type(function) is not _Global or function.call is None or type(args) is not tuple:
        what = function.name if type(function) is _Global else type(function).__name__
        raise ValueError(f"refusing to load: it calls {what}")
    machine.push(function.call(args))


def _set_state(machine: _Machine, _: Any) -> None:
    state = machine.pop()
    machine.top(dict)
    # torch hangs the modules' versions on a state dict as the attribute _metadata.
    names = list(state) if type(state) is dict else ["something that is not a dict"]
    for name in names:
        if name != "_metadata":
            raise ValueError(f"refusing to load: it sets the state {shown(name)} of an OrderedDict")


def _storage(machine: _Machine, _: Any) -> None:
    machine.push(_make_storage(machine.pop()))


def _nothing(machine: _Machine, _: Any) -> None:
    pass


_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), _literal),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _literal),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), _literal),
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_LIST": _constant(list),
    "EMPTY_TUPLE": _constant(tuple),
    "TUPLE1": _short_tuple(1),
    "TUPLE2": _short_tuple(2),
    "TUPLE3": _short_tuple(3),
    "MARK": _mark,
    "TUPLE": _tuple,
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "BINPUT": _remember,
    "LONG_BINPUT": _remember,
    "MEMOIZE": _remember,
    "BINGET": _recall,
    "LONG_BINGET": _recall,
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "INST": _instance,
    "REDUCE": _call,
    "BUILD": _set_state,
    "BINPERSID": _storage,
}
"""All that a state dict needs, and `INST`, whose refusal names what it asks for."""


def _interpret(data: bytes) -> Any:
    """The object that a pickle makes: follows its instructions up to `STOP`."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"the pickle is {len(data)} bytes long; at most {MAX_BYTES} are read")
    machine = _Machine()
    for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
        if count == _MAX_INSTRUCTIONS:
            raise ValueError(f"the pickle has more than {_MAX_INSTRUCTIONS} instructions")
        if instruction.name == "STOP":
            return machine.pop()
        if instruction.name not in _INSTRUCTIONS:
            detail = "" if argument is None else f" {shown(argument)}"
            raise ValueError(
                f"refusing to load: it uses the pickle instruction {instruction.name}{detail}, "
                "which no state dict needs"
            )
        _INSTRUCTIONS[instruction.name](machine, argument)
    raise ValueError("the pickle is damaged: it does not end")
