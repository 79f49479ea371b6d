"""The register tile: sums of MR rows x NR vectors that stay in registers while taps are added.

Every generator of a micro-kernel is built of it. What is not said here is as in `vectors`.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from tileconv.engine.vectors import (
    constant_index,
    lanes_of,
    load_vector,
    splat,
    store_vector,
    vector_fma,
)


class RegisterTile:
    """Rows of vectors of sums of one dtype.

    Each sum is a slot on the stack, which LLVM turns into a register.
    """

    def __init__(
        self,
        context: Any,
        builder: ir.IRBuilder,
        dtype: Any,
        rows: int,
        vectors: int,
        lanes: int | None = None,
    ) -> None:
        self.builder = builder
        self.kind = context.get_data_type(dtype)
        self.bytes = dtype.bitwidth // 8
        """Bytes of an element."""
        self.vector = ir.VectorType(self.kind, lanes or lanes_of(dtype))
        self._fma = vector_fma(builder, self.vector)
        self._rows = [
            [cgutils.alloca_once(builder, self.vector) for _ in range(vectors)] for _ in range(rows)
        ]

    def zero(self) -> None:
        """Let all sums be 0."""
        zero = ir.Constant(self.vector, [ir.Constant(self.kind, 0.0)] * self.vector.count)
        for register in (register for row in self._rows for register in row):
            self.builder.store(zero, register)

    def load(self, rows: Sequence[ir.Value]) -> None:
        """Read all sums from memory; ``rows`` are pointers to the first one of each row."""
        for registers, row in zip(self._rows, rows, strict=True):
            for register, value in zip(registers, self.vectors_at(row), strict=True):
                self.builder.store(value, register)

    def store(self, rows: Sequence[ir.Value]) -> None:
        """Write all sums to memory; ``rows`` are pointers to the first one of each row."""
        for registers, row in zip(self._rows, rows, strict=True):
            for i, register in enumerate(registers):
                place = self.builder.gep(row, [constant_index(i * self.vector.count)])
                store_vector(self.builder, self.builder.load(register), place, self.bytes)

    def rows_at(self, address: ir.Value, stride: ir.Value) -> list[ir.Value]:
        """Return a pointer to each row, ``stride`` elements apart from ``address`` on."""
        rows = [self.builder.inttoptr(address, self.kind.as_pointer())]
        while len(rows) < len(self._rows):
            rows.append(self.builder.gep(rows[-1], [stride]))
        return rows

    def vectors_at(self, pointer: ir.Value) -> list[ir.Value]:
        """Load as many neighbouring vectors as a row has."""
        return [
            load_vector(
                self.builder,
                self.builder.gep(pointer, [constant_index(i * self.vector.count)]),
                self.vector,
                self.bytes,
            )
            for i in range(len(self._rows[0]))
        ]

    def fma(self, row: int, scalar: ir.Value, vectors: Sequence[ir.Value]) -> None:
        """Add ``scalar`` times ``vectors`` to a row, rounded once."""
        factor = splat(self.builder, scalar, self.vector)
        for register, vector in zip(self._rows[row], vectors, strict=True):
            done = self.builder.call(self._fma, [factor, vector, self.builder.load(register)])
            self.builder.store(done, register)

    def fma_unless_zero(self, row: int, scalar: ir.Value, vectors: Sequence[ir.Value]) -> None:
        """Do what `fma` does if ``scalar`` is not 0: a weight of 0 is no tap."""
        zero = ir.Constant(self.kind, 0.0)
        with self.builder.if_then(self.builder.fcmp_unordered("!=", scalar, zero)):
            self.fma(row, scalar, vectors)
