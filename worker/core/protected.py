"""Protected departments: their removal always waits for a person."""

from dataclasses import dataclass

from worker.core.model.departments import Department

WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class Protected:
    """Names departments: `department_id` of any tenant, or `tenant/department_id`; `*` ends either."""

    patterns: tuple[str, ...] = ()

    def includes(self, department: Department) -> bool:
        """Whether the department is named."""
        whole = f"{department.tenant}/{department.id}"
        return any(
            _matches(pattern, department.id) or ("/" in pattern and _matches(pattern, whole))
            for pattern in self.patterns
        )


NOBODY_PROTECTED = Protected()


def _matches(pattern: str, name: str) -> bool:
    if pattern.endswith(WILDCARD):
        return name.startswith(pattern.removesuffix(WILDCARD))
    return name == pattern
