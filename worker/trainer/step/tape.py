"""Records a training step and replays it without PyTorch's overhead: the CPU's counterpart of a CUDA graph.

A step of a small model is about twenty kernels of a microsecond each; the way to them (Python, module calls, the
autograd engine, the optimizer's bookkeeping, allocations) takes longer than they do. `record` runs one step and records
each ATen operation with the tensors that it read and wrote; `Tape.replay` calls the same kernels on the same memory
again. The arithmetic and the bits are those of the recorded step: nothing is fused or reordered.

The inputs that change between steps must therefore be in fixed tensors: batch, labels, learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

MOST_OPERATIONS = 200  # a longer step spends its time in kernels

# Kernels so long that the overhead does not matter; their out= variants would copy once more.
COSTLY = ("convolution", "convolution_backward", "_scaled_dot_product_attention")
CONSTANTS = ("full", "full_like", "ones", "zeros", "new_full", "new_ones", "new_zeros", "scalar_tensor", "arange")
READS_BACK = ("_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "unique")


class NotRepeatable(Exception):
    """The step cannot be replayed from a tape; the message says why."""


class Call(NamedTuple):
    name: str
    run: Callable[[], Any]
    constant: int | None = None  # address of its output, if that is the same in each step


class Tape:
    """The operations of one step in order, each bound to its tensors, and their ATen names."""

    def __init__(self, calls: list[Call], result: Tensor) -> None:
        self.names = [call.name for call in calls]
        self.operations, self._result = [call.run for call in calls], result

    def __len__(self) -> int:
        return len(self.operations)

    def replay(self) -> Tensor:
        """Run the step again on the current values of its tensors; the next replay overwrites the loss ()."""
        for operation in self.operations:
            operation()
        return self._result


def record(step: Callable[[], Tensor]) -> tuple[Tape | None, Tensor, str]:
    """Run `step` and record it. Returns the tape, the loss () and "", or None, the loss and why it failed."""
    recorder = _Recorder()
    with recorder:
        loss = step()
    if recorder.obstacle:
        return None, loss, recorder.obstacle
    return Tape(recorder.calls(), loss.detach()), loss, ""


class _Recorder(TorchDispatchMode):
    """Runs each operation below autograd and records a call that writes into the same outputs.

    The tape references every tensor that the step makes, so that no memory is reused for another one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.obstacle = ""
        self._calls: list[Call] = []
        self._changed: set[int] = set()  # addresses that some operation writes in place
        self._constants: set[int] = set()  # addresses whose content does not depend on the batch
        self._referenced: list[Any] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """True, as by default, wraps `__torch_dispatch__` to keep torch.compile out, by importing torch._dynamo."""
        return False

    def calls(self) -> list[Call]:
        """The calls in order, without those that write a constant which no operation changes."""
        return [call for call in self._calls if call.constant is None or call.constant in self._changed]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.obstacle:
            try:
                self._record(func, args, kwargs, out)
            except NotRepeatable as obstacle:
                self.obstacle = str(obstacle)
        return out

    def _record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        name = func._schema.name.removeprefix("aten::")
        if name.startswith(READS_BACK):
            raise NotRepeatable(f"the step reads a value back ({name})")
        if name.startswith(COSTLY):
            raise NotRepeatable(f"its kernels outweigh the calls ({name})")
        # detached, so that a replay builds no autograd graph
        args, kwargs, out = tree_map_only(Tensor, Tensor.detach, (args, kwargs, out))
        self._referenced.append((args, kwargs, out))
        if func._schema.is_mutable:
            self._calls.append(Call(name, partial(func._op, *args, **kwargs)))  # on existing memory
            self._changed.update(_written(func, args, kwargs))
        elif _is_view(out, args) or name.startswith("empty"):
            return
        elif isinstance(out, Tensor) and self._is_constant(func, name, args):
            self._constants.add(_address(out))
            self._calls.append(Call(name, partial(out.copy_, out.clone()), _address(out)))
        else:
            self._calls.append(Call(name, _into(func, name, args, kwargs, out)))
        if len(self._calls) > MOST_OPERATIONS:
            raise NotRepeatable(f"the step has more than {MOST_OPERATIONS} operations")

    def _is_constant(self, func: Any, name: str, args: tuple[Any, ...]) -> bool:
        """Whether the output is the same in each step: it has no input tensors, or only constants."""
        if name.startswith(CONSTANTS):
            return True
        read = {_address(t) for t in _tensors(args)}
        draws = torch.Tag.nondeterministic_seeded in func.tags
        return bool(read) and read <= self._constants - self._changed and not draws


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[int]:
    """Addresses that a mutating operation writes."""
    named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
    writes = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return {_address(t) for name in writes for t in _tensors(named.get(name))}


def _is_view(out: Any, args: tuple[Any, ...]) -> bool:
    """Whether the outputs are views of the inputs: they then show the next step's values without a call."""
    addresses = {_address(t) for t in _tensors(args)}
    return all(_address(t) in addresses for t in _tensors(out))


def _into(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Callable[[], Any]:
    """A call of the same operation that writes into `out`."""
    outputs = out if isinstance(out, tuple | list) else (out,)
    if not all(isinstance(t, Tensor) for t in outputs):
        raise NotRepeatable(f"{func} does not return tensors")
    # The out= variant of batch_norm computes other last digits: not used for operations with several outputs.
    overload = _out_variant(func) if isinstance(out, Tensor) else None
    if overload is None:
        return partial(_copy, func, args, kwargs, outputs)
    if quick := _torch_function(func, name, args, kwargs, out):
        return quick
    [target] = [argument.name for argument in overload._schema.arguments if argument.is_out]
    return partial(overload._op, *args, **kwargs, **{target: out})


def _copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Sequence[Tensor]) -> None:
    """Run an operation that has no out= variant, and copy its results into `outputs`."""
    made = func(*args, **kwargs)
    for target, source in zip(outputs, made if isinstance(made, tuple | list) else (made,), strict=True):
        target.copy_(source)


def _torch_function(
    func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor
) -> Callable[[], Any] | None:
    """torch.NAME(…, out=…) if it computes the same: its arguments are parsed in half the time."""
    function = getattr(torch, name, None)
    draws = torch.Tag.nondeterministic_seeded in func.tags  # the trial below would advance the random state
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
    """The overload with `func`'s arguments and output tensors; None if there is none."""
    wanted = [(a.name, str(a.type)) for a in func._schema.arguments]
    packet = func.overloadpacket
    for overload_name in packet.overloads():
        overload = getattr(packet, overload_name)
        arguments = overload._schema.arguments
        if any(a.is_out for a in arguments) and [(a.name, str(a.type)) for a in arguments if not a.is_out] == wanted:
            return overload
    return None
