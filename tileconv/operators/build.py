"""From the section of a job that names an operator to its value."""

from collections.abc import Callable, Mapping
from typing import Any

from tileconv.operators.base import Operator
from tileconv.operators.convolution import Convolution
from tileconv.operators.reduction import Reduction

_BUILDERS: Mapping[str, Callable[..., Operator]] = {
    "kernel": Convolution.of,
    "focal": Reduction.of,
}


def build(section: str, *subject: Any, **options: Any) -> Operator:
    """Return the operator of a section, made of what the section holds and the options."""
    return _BUILDERS[section](*subject, **options)
