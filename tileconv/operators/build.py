"""From the section of a job that names an operator to its value."""

from collections.abc import Mapping
from typing import Any

from tileconv.operators.base import Operator
from tileconv.operators.convolution import Convolution


def build(section: str, subject: Any, options: Mapping[str, Any]) -> Operator:
    """Return the operator of a section, ``kernel``, made of what the section holds and options."""
    del section
    return Convolution.of(subject, **options)
