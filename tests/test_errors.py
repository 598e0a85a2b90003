"""The error tree in the docstring of `ulcodec.errors`."""

import re

from ulcodec import errors


def test_documented_error_tree_equals_the_classes() -> None:
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ((?:[│ ]   )*)(?:[├└]── )?(\w+Error)\b", line):
            depth = len(match[1]) // 4 + ("── " in line)
            path[depth:] = [match[2]]
            parents[match[2]] = path[-2] if depth else "Exception"
    classes = {name: item.__base__.__name__ for name, item in vars(errors).items() if isinstance(item, type)}
    assert parents == classes
