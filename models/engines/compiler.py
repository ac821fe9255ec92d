"""What torch's own compiler (Inductor) needs of a machine, for the two engines that use it.

Inductor writes C++ for the processor and Triton for a GPU. Its code is made for the very machine: the instructions of
this processor, the capability of this GPU. Inductor's caches of whole graphs are pickles, so they stay off; what is
left of its cache is sources and compiled libraries by their hashes.
"""

import contextlib
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from models.engines.base import quiet_export
from models.errors import EngineNotPossible

# In this process: workers would hand compiled graphs over as pickles.
INDUCTOR: dict[str, Any] = {"fx_graph_cache": False, "compile_threads": 1}


def require_compiler(engine: str) -> None:
    """Raise EngineNotPossible where Inductor has nothing to compile with: no C++ compiler, for a GPU no Triton."""
    with quiet_export():
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise EngineNotPossible(
            f"engine {engine}: no C++ compiler on this machine; install g++, or name one in the variable CXX"
        ) from None
    if torch.cuda.is_available():
        from torch.utils._triton import has_triton

        if not has_triton():
            raise EngineNotPossible(f"engine {engine}: no Triton for this GPU; pip install triton")


@contextlib.contextmanager
def quiet_compiler() -> Iterator[None]:
    """Compile without caches that are pickles, and without torch's warnings of its own code."""
    import torch._functorch.config as functorch

    patch: Any = functorch
    with quiet_export(), patch.patch(enable_autograd_cache=False):
        yield


def machine() -> str:
    """Return what compiled code was made for, in words: processor, its instructions, and the GPU where there is one."""
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        return f"{torch.cuda.get_device_name()} sm{major}{minor}, {_processor()}"
    return _processor()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} {torch.backends.cpu.get_cpu_capability()}"
