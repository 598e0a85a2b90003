"""The error tree that the module draws is the real one."""

import re

from ulcodec import errors


def test_the_drawn_tree_is_the_real_one() -> None:
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"    ((?:[│ ]   )*)(?:[├└]── )?(\w+Error)\b", line):
            depth = len(match[1]) // 4 + ("── " in line)
            path[depth:] = [match[2]]
            parents[match[2]] = path[-2] if depth else "Exception"
    real = {name: item.__base__.__name__ for name, item in vars(errors).items() if isinstance(item, type)}
    assert parents == real
