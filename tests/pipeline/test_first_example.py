"""The example of tests/README.md runs as it is printed there."""

import re
from pathlib import Path
from types import ModuleType

import pytest

README = Path(__file__).parents[1] / "README.md"
(EXAMPLE,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def example() -> ModuleType:
    module = ModuleType("first_example")
    exec(compile(EXAMPLE, str(README), "exec"), module.__dict__)  # noqa: S102 - our own README
    return module


TESTS = {name: test for name, test in vars(example()).items() if name.startswith("test_")}


@pytest.mark.parametrize("name", TESTS)
async def test_the_readmes_example_passes(name, world):
    await TESTS[name](world)


def test_it_shows_two_tests():
    assert len(TESTS) == 2
