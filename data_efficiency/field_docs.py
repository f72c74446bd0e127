"""What is written below the fields of a dataclass: help texts and reference pages are made of it."""

import ast
import functools
import inspect
from dataclasses import is_dataclass


@functools.cache
def field_docs(config_class: type) -> dict[str, str]:
    """Field name -> the docstring written below the field, as one line; inherited ones too."""
    docs: dict[str, str] = {}
    for base in config_class.__bases__:
        docs |= field_docs(base) if is_dataclass(base) else {}
    tree = ast.parse(inspect.getsource(config_class)).body[0]
    assert isinstance(tree, ast.ClassDef)
    for statement, below in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            docs[statement.target.id] = " ".join(str(below.value.value).split())
    return docs
