"""`audit`: what is wrong in the classes of a package, without any instance of them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ._errors import FindingError, TargetError, did_you_mean, explain_error, rows
from ._findings import CODES, Finding, Subject
from ._plain_rules import (
    foreign_finding,
    foreign_findings,
    plain_role_findings,
    static_findings,
)
from ._registry import registry
from ._rules import role_findings
from ._targets import Skipped, Target, find_targets
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
    skipped: tuple[Skipped, ...]
    """Modules that could not be imported, each with the reason and its kind: `optional` if
    a package of somebody else is missing, else `broken`."""
    unseen: tuple[str, ...] = ()
    """Packages of which everything below was skipped."""

    @property
    def ok(self) -> bool:
        """Whether there is no warning, and all could be looked at.

        Notes do not count, nor do optional modules, unless there are no others.
        """
        broken = any(one.kind == "broken" for one in self.skipped)
        warned = any(finding.severity == "warning" for finding in self.findings)
        return not (broken or warned or self.unseen)

    def check(self) -> "Audit":
        """The audit itself, if it is `ok`: for a test suite.

        **Raises:** `FindingError` with the findings and with what could not be imported.
        """
        if self.ok:
            return self
        found = [*self._skipped_rows(), *map(str, self.findings)]
        raise FindingError(f"{self._counts()}\n{rows(found)}")

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        rows = [*map(str, self.findings), *self._skipped_rows(), self._counts()]
        return "\n".join(rows)

    def _skipped_rows(self) -> list[str]:
        return [f"{one.module}: skipped ({one.kind}): {one.reason}" for one in self.skipped]

    def _counts(self) -> str:
        end = f"; {self._skipped_text()}" if self.skipped else ""
        if not self.classes:
            return f"{self.target}: {self._nothing_text()}{end}"
        counts = Counter(finding.severity for finding in self.findings)
        parts = [
            counted(counts[kind], kind) for kind in ("warning", "note") if counts[kind]
        ]
        found = " and ".join(parts) or "nothing found"
        return f"{self.target}: {found} in {counted(self.classes, 'class')}{end}"

    def _nothing_text(self) -> str:
        if self.unseen:
            return "nothing could be looked at"
        if self.skipped:
            return "no equinox.Module in what could be imported"
        return "no equinox.Module is defined here"

    def _skipped_text(self) -> str:
        kinds = Counter(one.kind for one in self.skipped)
        parts = [f"{kinds[kind]} {kind}" for kind in ("broken", "optional") if kinds[kind]]
        return f"{counted(len(self.skipped), 'module')} skipped ({', '.join(parts)})"

    def to_dict(self) -> dict[str, Any]:
        """The findings and counts, as data that `json.dumps` takes."""
        return {
            "target": self.target,
            "ok": self.ok,
            "classes": self.classes,
            "findings": [_finding_dict(finding) for finding in self.findings],
            "skipped": [one._asdict() for one in self.skipped],
            "unseen": list(self.unseen),
        }


def audit(target: Any, *, ignore: str | Sequence[str] = ()) -> Audit:
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

    - `target`: a package or module, a class, the name of one (`"pkg.mod.Class"` or
      `"pkg.mod:Class"`), or a sequence of these. Of a package, everything below it is
      imported, save `__main__`; of a class, the bases whose fields it inherits are looked
      at, too.
    - `ignore`: codes to leave out, as `("ANX001", "ANX006")` or `"ANX001,ANX006"`.

    **Returns:** an `Audit`: `ok`, `findings`, `skipped`; it prints one finding a line, in
    the way of linters. In a test suite: `audit(package).check()`.

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
        skipped=tuple(dict.fromkeys(skip for one in targets for skip in one.skipped)),
        unseen=tuple(one.name for one in targets if one.skipped and not one.looked),
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


def _known_codes(ignore: str | Sequence[str]) -> set[str]:
    """The codes to leave out; a mistyped one would ignore nothing, silently."""
    texts = [ignore] if isinstance(ignore, str) else ignore
    parts = (part.strip() for text in texts for part in str(text).split(","))
    codes = {part for part in parts if part}
    known = [code.code for code in CODES]
    unknown = sorted(codes - set(known))
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
