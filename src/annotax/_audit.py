"""`audit`: what is wrong in the classes of a package, without any instance of them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ._errors import TargetError, did_you_mean, explain_error
from ._findings import CODES, Finding, Subject
from ._plain_rules import (
    foreign_finding,
    foreign_findings,
    plain_role_findings,
    static_findings,
)
from ._registry import registry
from ._rules import role_findings
from ._targets import Target, find_targets
from ._text import Report, counted


@dataclass(frozen=True, repr=False)
class Audit(Report):
    """What is wrong in some classes; made by `audit`.

    Iterating gives the findings.

    Examples:
        >>> import annotax as anx
        >>> found = anx.audit("equinox.nn")
        >>> found.ok, len(found), found.classes > 30
        (True, 0, True)
    """

    target: str
    """What was looked at, by name."""
    findings: tuple[Finding, ...]
    """By file and line."""
    classes: int
    """How many module classes were looked at."""
    skipped: tuple[tuple[str, str], ...]
    """Modules that could not be imported, each with the reason."""

    @property
    def ok(self) -> bool:
        """Whether there is no warning. Notes do not count."""
        return all(finding.severity == "note" for finding in self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __bool__(self) -> bool:
        return True  # a report without findings is still a report

    def __str__(self) -> str:
        rows = [str(finding) for finding in self.findings]
        rows += [f"{name}: skipped: {reason}" for name, reason in self.skipped]
        return "\n".join([*rows, self._counts()])

    def _counts(self) -> str:
        if not self.classes:
            return f"{self.target}: no equinox.Module is defined here"
        counts = Counter(finding.severity for finding in self.findings)
        parts = [
            counted(counts[kind], kind) for kind in ("warning", "note") if counts[kind]
        ]
        found = " and ".join(parts) or "nothing found"
        end = f"; {counted(len(self.skipped), 'module')} skipped" if self.skipped else ""
        return f"{self.target}: {found} in {counted(self.classes, 'class')}{end}"

    def to_dict(self) -> dict[str, Any]:
        """The findings and counts, as data that `json.dumps` takes."""
        return {
            "target": self.target,
            "ok": self.ok,
            "classes": self.classes,
            "findings": [_finding_dict(finding) for finding in self.findings],
            "skipped": [{"module": name, "reason": why} for name, why in self.skipped],
        }


def audit(target: Any, *, ignore: Sequence[str] = ()) -> Audit:
    """What is wrong in the classes of a package, without any instance of them.

    Examples:
        >>> import annotax as anx
        >>> from jax import Array
        >>> class Norm(anx.Module):
        ...     scale: anx.Param[Array]
        ...     mean: Array
        ...     axes: anx.Hyper[list[int]]
        >>> found = anx.audit(Norm)
        >>> [(finding.code, finding.where) for finding in found]
        [('ANX001', 'Norm.mean'), ('ANX003', 'Norm.axes')]
        >>> found.ok
        False

    | code | name | what it tells |
    |---|---|---|
    | ANX001 | array-without-role | a field with arrays and without a role |
    | ANX002 | array-in-hyper | a Hyper whose type holds arrays |
    | ANX003 | unhashable-in-hyper | a Hyper whose type has no hash |
    | ANX004 | unresolved-role | a role that could not be read, or may be hidden |
    | ANX005 | unchecked-hint | a type, beside a role, that cannot be read |
    | ANX006 | param-in-buffer | a note: a Buffer of a class that has Params |
    | ANX007 | foreign-class | arrays in a class that nobody annotated or registered |
    | ANX008 | static-array | `eqx.field(static=True)` on a type that holds arrays |
    | ANX009 | role-in-plain-module | a role in a plain class, where it has no effect |

    All but the last two are about annotax classes and what stands among them: a package
    that knows nothing of annotax hears of static arrays only.

    **Arguments:**

    - `target`: a package or module, a class, the dotted name of one, or a sequence of
      these. Of a package, everything below it is imported, save `__main__`; of a class,
      the bases whose fields it inherits are looked at, too.
    - `ignore`: codes to leave out, as `("ANX006",)`.

    **Returns:** an `Audit`: `ok`, `findings`, `skipped`; it prints one finding a line, in
    the way of linters.

    **Raises:** `TargetError` for a name that cannot be imported, an instance, a class
    that is no module, an unknown code.
    """
    ignored = _known_codes(ignore)
    targets = find_targets(target)
    audited = {cls: None for one in targets for cls in one.classes}
    foreign = {cls for one in targets for cls in _could_be_annotated(one)}
    findings = [
        finding
        for cls in audited
        for finding in _class_findings(Subject(cls), audited, cls in foreign)
        if finding.code not in ignored
    ]
    return Audit(
        target=", ".join(one.name for one in targets),
        findings=tuple(sorted(findings, key=_place)),
        classes=len(audited),
        skipped=tuple(dict.fromkeys(pair for one in targets for pair in one.skipped)),
    )


def _class_findings(
    subject: Subject, audited: dict[type, None], foreign: bool
) -> Iterator[Finding]:
    yield from static_findings(subject)
    yield from plain_role_findings(subject, audited)
    if subject.ours:
        yield from role_findings(subject)
        yield from foreign_findings(subject, audited)
    elif foreign:
        yield from foreign_finding(subject)


def _could_be_annotated(target: Target) -> list[type]:
    """The classes of which an annotation or registration can be expected.

    Those among annotax classes, and one that was named itself: whoever maintains a
    package without annotax has no use for roles.
    """
    if any(cls in registry.declarations for cls in target.classes):
        return target.classes
    return [] if target.chosen is None else [target.chosen]


def _place(finding: Finding) -> tuple[str, int]:
    return finding.location or (finding.module, 0)


def _known_codes(ignore: Sequence[str]) -> set[str]:
    """The codes to leave out; a mistyped one would ignore nothing, silently."""
    codes = {ignore} if isinstance(ignore, str) else set(ignore)
    known = [code.code for code in CODES]
    unknown = sorted(map(str, codes - set(known)))
    if unknown:
        raise TargetError(
            explain_error(
                "audit(ignore=...)",
                f"there is no code {', '.join(map(repr, unknown))}",
                fix=did_you_mean(unknown[0], known),
            )
        )
    return codes


def _finding_dict(finding: Finding) -> dict[str, Any]:
    fields = asdict(finding)
    place = fields.pop("location")
    file, line = place or (None, None)
    return {**fields, "file": file, "line": line}
