"""A training step that ran once, repeated without the cost of working it out again. For the CPU, as CUDA graphs for it.

A step of a small net is some twenty kernels of a microsecond each; PyTorch's way to them (Python, module calls, the
autograd engine, the optimizer's bookkeeping, allocations) costs more than they do. `record` runs one step for real and
writes down each ATen operation with the very tensors that it read and wrote; `Tape.repeat` calls the same kernels on
the same memory again. The arithmetic is the recorded step's, and so are the bits: nothing is fused or reordered.

What may differ between steps must therefore lie in fixed tensors: the batch, the labels, the learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

MOST_OPERATIONS = 200  # beyond, a step is long and its kernels are what it costs

# Nothing is saved around kernels of this size, and their variants with a given output copy once more.
COSTLY = ("convolution", "convolution_backward", "_scaled_dot_product_attention")
CONSTANTS = ("full", "full_like", "ones", "zeros", "new_full", "new_ones", "new_zeros", "scalar_tensor", "arange")
READS_BACK = ("_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "unique")


class NotRepeatable(Exception):
    """The step depends on something that a tape does not hold; the message says on what."""


class Call(NamedTuple):
    name: str
    run: Callable[[], Any]
    constant: int | None = None  # where it writes what is the same in each step


class Tape:
    """The operations of one step, in order, each bound to its tensors, and their names in ATen."""

    def __init__(self, calls: list[Call], result: Tensor) -> None:
        self.names = [call.name for call in calls]
        self.operations, self._result = [call.run for call in calls], result

    def __len__(self) -> int:
        return len(self.operations)

    def replay(self) -> Tensor:
        """Run the step again on what now lies in its tensors; the loss () is overwritten by the next repeat."""
        for operation in self.operations:
            operation()
        return self._result


def record(step: Callable[[], Tensor]) -> tuple[Tape | None, Tensor, str]:
    """Run `step` for real; return its tape, its loss, and, where there is no tape, the reason why."""
    recorder = _Recorder()
    with recorder:
        loss = step()
    if recorder.obstacle:
        return None, loss, recorder.obstacle
    return Tape(recorder.calls(), loss.detach()), loss, ""


class _Recorder(TorchDispatchMode):
    """Sees each operation below autograd, runs it, and keeps a call that writes into the same outputs.

    Every tensor that is made stays referenced by the tape: no memory is used for two of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.obstacle = ""
        self._calls: list[Call] = []
        self._changed: set[int] = set()  # memory that some operation works on in place
        self._constants: set[int] = set()  # memory that holds the same whatever the batch
        self._kept: list[Any] = []

    def calls(self) -> list[Call]:
        """In order; a constant that nobody changes is written once and for all."""
        return [call for call in self._calls if call.constant is None or call.constant in self._changed]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.obstacle:
            try:
                self._note(func, args, kwargs, out)
            except NotRepeatable as obstacle:
                self.obstacle = str(obstacle)
        return out

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        name = func._schema.name.removeprefix("aten::")
        if name.startswith(READS_BACK):
            raise NotRepeatable(f"the step reads a value back ({name})")
        if name.startswith(COSTLY):
            raise NotRepeatable(f"its kernels outweigh the calls ({name})")
        # what the calls hold has no part in any graph: they need not be told so at each repeat
        args, kwargs, out = tree_map_only(Tensor, Tensor.detach, (args, kwargs, out))
        self._kept.append((args, kwargs, out))
        if func._schema.is_mutable:
            self._calls.append(Call(name, partial(func._op, *args, **kwargs)))  # on memory that stands already
            self._changed.update(_written(func, args, kwargs))
        elif _is_view(out, args) or name.startswith("empty"):
            return
        elif isinstance(out, Tensor) and self._is_constant(func, name, args):
            self._constants.add(_place(out))
            self._calls.append(Call(name, partial(out.copy_, out.clone()), _place(out)))
        else:
            self._calls.append(Call(name, _into(func, name, args, kwargs, out)))
        if len(self._calls) > MOST_OPERATIONS:
            raise NotRepeatable(f"the step has more than {MOST_OPERATIONS} operations")

    def _is_constant(self, func: Any, name: str, args: tuple[Any, ...]) -> bool:
        """Whether this is the same in each step: made of nothing, or of constants alone."""
        if name.startswith(CONSTANTS):
            return True
        read = {_place(t) for t in _tensors(args)}
        draws = torch.Tag.nondeterministic_seeded in func.tags
        return bool(read) and read <= self._constants - self._changed and not draws


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[int]:
    """The memory that a mutating operation writes."""
    named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    writes = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return {_place(t) for name in writes for t in _tensors(named.get(name))}


def _is_view(out: Any, args: tuple[Any, ...]) -> bool:
    """Whether the outputs only look at memory of the inputs: then they see the next step's numbers by themselves."""
    places = {_place(t) for t in _tensors(args)}
    return all(_place(t) in places for t in _tensors(out))


def _into(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Callable[[], Any]:
    """A call of the same kernel that writes into `out`."""
    outputs = out if isinstance(out, tuple | list) else (out,)
    if not all(isinstance(t, Tensor) for t in outputs):
        raise NotRepeatable(f"{func} gives something else than tensors")
    # batch_norm's variant with given outputs takes another path, to other last digits: with several, none is trusted
    overload = _out_variant(func) if isinstance(out, Tensor) else None
    if overload is None:
        return partial(_copy, func, args, kwargs, outputs)
    if quick := _torch_function(func, name, args, kwargs, out):
        return quick
    [target] = [argument.name for argument in overload._schema.arguments if argument.is_out]
    return partial(overload._op, *args, **kwargs, **{target: out})


def _copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Sequence[Tensor]) -> None:
    """For what has no such call: into new memory, and from there."""
    made = func(*args, **kwargs)
    for target, source in zip(outputs, made if isinstance(made, tuple | list) else (made,), strict=True):
        target.copy_(source)


def _torch_function(
    func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor
) -> Callable[[], Any] | None:
    """torch.NAME(…, out=…) where there is one that does the same: its arguments are read in half the time."""
    function = getattr(torch, name, None)
    draws = torch.Tag.nondeterministic_seeded in func.tags  # a trial would draw once more than the step does
    if function is None or name.startswith("_") or draws:
        return None
    trial = torch.empty_like(out)
    try:
        function(*args, **kwargs, out=trial)
    except (TypeError, RuntimeError):
        return None
    same = trial.dtype == out.dtype and trial.stride() == out.stride() and torch.equal(trial, out)
    return partial(function, *args, **kwargs, out=out) if same else None


def _out_variant(func: Any) -> Any:
    """The overload with `func`'s arguments and, after them, the tensors to write into."""
    wanted = [(a.name, str(a.type)) for a in func._schema.arguments]
    packet = func.overloadpacket
    for overload_name in packet.overloads():
        overload = getattr(packet, overload_name)
        arguments = overload._schema.arguments
        if any(a.is_out for a in arguments) and [(a.name, str(a.type)) for a in arguments if not a.is_out] == wanted:
            return overload
    return None
