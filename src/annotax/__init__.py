"""annotax: say once, in a field's annotation, what it is.

`Param[...]`, `Buffer[...]` and `Hyper[...]` around the type of a field of an Equinox
model tell what is trained, what no gradient reaches and what is static. Start with
`Module`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _equinox_nn as _equinox_nn  # registers them
from ._errors import (
    AnnotationError,
    AnnotationWarning,
    AnnotaxError,
    CheckError,
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
from ._leaves import Leaves
from ._mode import checking
from ._module import Module
from ._register import register
from ._role import Buffer, Hyper, Param, Role

if TYPE_CHECKING:
    from ._adopt import adopt
    from ._audit import Audit, audit
    from ._carry import CarryReport, carry
    from ._change import inference_mode, replace
    from ._checkpoint import load, save
    from ._diff import Diff, diff
    from ._explain import Explanation, explain
    from ._findings import Finding
    from ._flat import leaves, params, update
    from ._freeze import freeze, unfreeze
    from ._grad import grad, value_and_grad
    from ._gradient_report import gradient_report
    from ._gradient_verdict import GradientReport
    from ._labels import labels
    from ._leaf_diff import Difference
    from ._locate import Location
    from ._records import Record, records
    from ._select import at, by, by_path, by_role, by_tag, everything, trainable_filter
    from ._selection import Selection
    from ._sharding import partition_specs, shardings
    from ._split import Structure, merge, split
    from ._summary import Summary, summary
    from ._targets import Skipped
    from ._validate import validate

__version__ = "0.1.0"

__all__ = [
    "AnnotationError",
    "AnnotationWarning",
    "AnnotaxError",
    "Audit",
    "Buffer",
    "CarryReport",
    "CheckError",
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
    "checking",
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
    "validate",
    "value_and_grad",
]

_FEATURES = {
    "_adopt": "adopt",
    "_audit": "Audit audit",
    "_carry": "CarryReport carry",
    "_change": "inference_mode replace",
    "_checkpoint": "load save",
    "_diff": "Diff diff",
    "_explain": "Explanation explain",
    "_findings": "Finding",
    "_flat": "leaves params update",
    "_freeze": "freeze unfreeze",
    "_grad": "grad value_and_grad",
    "_gradient_report": "gradient_report",
    "_gradient_verdict": "GradientReport",
    "_labels": "labels",
    "_leaf_diff": "Difference",
    "_locate": "Location",
    "_records": "Record records",
    "_select": "at by by_path by_role by_tag everything trainable_filter",
    "_selection": "Selection",
    "_sharding": "partition_specs shardings",
    "_split": "Structure merge split",
    "_summary": "Summary summary",
    "_targets": "Skipped",
    "_validate": "validate",
}
"""What each module of a feature offers. Declaring a class needs none of them, and they are
three quarters of the code: each is imported when a name of it is first asked for."""

_ON_DEMAND = {name: module for module, names in _FEATURES.items() for name in names.split()}


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
