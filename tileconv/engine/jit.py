"""Every Numba option, and the one arithmetic step, live here.

Loops are ``nogil`` and serial: dask's pool gives the threads, and Numba's own
threading layer aborts the process when two threads enter it. No fast-math flag
is set. A product is added by `fma`, a fused multiply-add that IEEE 754 rounds
once, so vector bodies, loop tails, dtypes and CPUs all give the same bits;
with the ``contract`` flag the compiler would be free to choose.
"""

import contextlib
import ctypes
import hashlib
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numba.core import caching

from tileconv.text import visible


class _Cache(caching.FunctionCache):
    """Numba's on-disk cache, made safe: it may be slow, never wrong or fatal.

    Numba keeps an entry as long as its own source file is unchanged and lets a
    damaged entry, a full disk or a read-only folder raise in the user's call.
    Here an entry also depends on every other file of the engine, and any
    failure means compiling again.
    """

    def __init__(self, py_func: Callable[..., Any]) -> None:
        super().__init__(py_func)
        stamp = (self._impl.locator.get_source_stamp(), _sources_digest())
        self._cache_file = caching.IndexDataCacheFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=stamp,
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a truncated pickle raises nearly anything
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception as error:
            with contextlib.suppress(OSError):
                self.flush()  # forget a damaged index, so that the next process can write one
            _warn_once(f"compiled loops are not cached ({error}); each process compiles them again")


_warned = False


def _warn_once(message: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(visible(message), RuntimeWarning, stacklevel=2)


@cache
def _sources_digest() -> str:
    """Return a digest of the engine's source files; they are read once in a process."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def loop(function: Callable[..., Any]) -> Any:
    """Compile ``function`` at its first call for each set of dtypes. Nothing in it is checked."""
    dispatcher = njit(nogil=True, error_model="numpy")(function)
    with contextlib.suppress(RuntimeError, OSError):  # no folder to cache in: all are read-only
        dispatcher._cache = _Cache(function)  # type: ignore[attr-defined,unused-ignore]
    return dispatcher


def address_of(function: Any, signature: Any) -> np.uintp:
    """Compile a `loop` for a signature of numbers and pointers and return its address.

    Others call it there (`vectors.call_at`), by the C convention. A loop that is
    linked into its callers instead is compiled once more with each of them.
    """
    function.compile(signature)
    compiled = function.overloads[signature.args]
    return np.uintp(
        compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name)
    )


def call(function: np.uintp, *numbers: int | np.integer) -> None:
    """Call what `address_of` returns from Python, without the interpreter's lock."""
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(numbers))
    kind(int(function))(*map(int, numbers))
