"""What looks into models takes any tree, and returns reports."""

from typing import Any, assert_type

from jaxtyping import Array

import annotax as anx


class Linear(anx.Module):
    weight: anx.Param[Array]


def reports(layer: Linear, tree: dict[str, Array], optimizer: Any) -> None:
    assert_type(anx.summary(layer), anx.Summary)
    assert_type(anx.summary(tree, depth=1, optimizer=optimizer), anx.Summary)
    assert_type(anx.summary(layer).to_dict(), dict[str, Any])
    assert_type(anx.summary(layer).text(width=60), str)
    assert_type(anx.explain(layer, "weight"), anx.Explanation)
    assert_type(anx.diff(layer, tree), anx.Diff)
    assert_type(anx.diff(layer, tree)[0], anx.Difference)
    assert_type(anx.audit(Linear), anx.Audit)
    assert_type(anx.audit(["package", Linear], ignore=["ANX006"]).ok, bool)
    for finding in anx.audit("package"):
        assert_type(finding, anx.Finding)
        assert_type(finding.location, anx.Location | None)


def loss_fn(layer: Linear, scale: float) -> Array:
    return layer.weight * scale


def gradients(layer: Linear) -> None:
    report = anx.gradient_report(loss_fn, layer, 2.0, wrt=anx.everything)
    assert_type(report, anx.GradientReport)
    assert_type(report.check(), anx.GradientReport)
    assert_type(report.dead, tuple[str, ...])
    assert_type(anx.audit(Linear).check(), anx.Audit)


def wrong_arguments(layer: Linear) -> None:
    anx.summary(layer, 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    anx.explain(layer)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    anx.sumary(layer)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
