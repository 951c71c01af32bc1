"""annotax: say once, in a field's annotation, what it is.

`Param[...]`, `Buffer[...]` and `Hyper[...]` around the type of a field of an Equinox
model tell what is trained, what no gradient reaches and what is static. Start with
`Module`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _equinox_nn as _equinox_nn  # registers them
from ._adopt import adopt
from ._carry import CarryReport, carry
from ._change import inference_mode, replace
from ._errors import (
    AnnotationError,
    AnnotationWarning,
    AnnotaxError,
    CheckpointError,
    CheckpointWarning,
    FieldError,
    FindingError,
    GradientError,
    HyperError,
    SelectionError,
    ShardingError,
    StructureError,
    TargetError,
)
from ._field import FieldSpec, field
from ._flat import leaves, params, update
from ._freeze import freeze, unfreeze
from ._grad import grad, value_and_grad
from ._labels import labels
from ._leaves import Leaves
from ._module import Module
from ._records import Record, records
from ._register import register
from ._role import Buffer, Hyper, Param, Role
from ._select import at, by, by_path, by_role, by_tag, everything, trainable_filter
from ._selection import Selection
from ._split import Structure, merge, split

if TYPE_CHECKING:
    from ._audit import Audit, audit
    from ._checkpoint import load, save
    from ._diff import Diff, diff
    from ._explain import Explanation, explain
    from ._findings import Finding
    from ._gradient_report import gradient_report
    from ._gradient_verdict import GradientReport
    from ._leaf_diff import Difference
    from ._locate import Location
    from ._sharding import partition_specs, shardings
    from ._summary import Summary, summary
    from ._targets import Skipped

__version__ = "0.1.0.dev0"

__all__ = [
    "AnnotationError",
    "AnnotationWarning",
    "AnnotaxError",
    "Audit",
    "Buffer",
    "CarryReport",
    "CheckpointError",
    "CheckpointWarning",
    "Diff",
    "Difference",
    "Explanation",
    "FieldError",
    "FieldSpec",
    "Finding",
    "FindingError",
    "GradientError",
    "GradientReport",
    "Hyper",
    "HyperError",
    "Leaves",
    "Location",
    "Module",
    "Param",
    "Record",
    "Role",
    "Selection",
    "SelectionError",
    "ShardingError",
    "Skipped",
    "Structure",
    "StructureError",
    "Summary",
    "TargetError",
    "adopt",
    "at",
    "audit",
    "by",
    "by_path",
    "by_role",
    "by_tag",
    "carry",
    "diff",
    "everything",
    "explain",
    "field",
    "freeze",
    "grad",
    "gradient_report",
    "inference_mode",
    "labels",
    "leaves",
    "load",
    "merge",
    "params",
    "partition_specs",
    "records",
    "register",
    "replace",
    "save",
    "shardings",
    "split",
    "summary",
    "trainable_filter",
    "unfreeze",
    "update",
    "value_and_grad",
]

_ON_DEMAND = {
    "Audit": "_audit",
    "audit": "_audit",
    "Difference": "_leaf_diff",
    "Diff": "_diff",
    "diff": "_diff",
    "Explanation": "_explain",
    "explain": "_explain",
    "Finding": "_findings",
    "GradientReport": "_gradient_verdict",
    "gradient_report": "_gradient_report",
    "load": "_checkpoint",
    "Location": "_locate",
    "partition_specs": "_sharding",
    "save": "_checkpoint",
    "shardings": "_sharding",
    "Skipped": "_targets",
    "Summary": "_summary",
    "summary": "_summary",
}
"""The module of each name for looking into models, and for growing them. They are as much
to import as all the rest, and a script that uses none of them should not wait for them."""


if not TYPE_CHECKING:  # or checkers would take any misspelt name for one of these

    def __getattr__(name: str) -> Any:
        if name not in _ON_DEMAND:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(
            import_module(f".{_ON_DEMAND[name]}", __name__), name
        )
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
