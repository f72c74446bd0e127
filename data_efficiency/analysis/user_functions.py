"""Functions that users wrote: found by a name, recognised by their source."""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def import_function(name: str) -> Callable[..., Any]:
    """The function that `package.module:function` names; the working directory counts as a package.

    Raises:
        ValueError: if the name has another form, or there is no such module or function.
    """
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise ValueError(f"{name!r} names no function: package.module:function is needed")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name}: {error}; give the module as Python imports it from {Path.cwd()}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"{name}: {module.__file__} has no function {function_name}")
    return function


def source_fingerprint(function: Callable[..., Any]) -> str:
    """SHA-256 (64 hex digits) of a function's source text, or of its name where there is none.

    Of a partial it is that of the function inside, of a callable object that of its class. What the
    function calls and the values it is bound to are not looked at.
    """
    while isinstance(function, partial):
        function = function.func
    described = function if hasattr(function, "__qualname__") else type(function)
    try:
        text = inspect.getsource(described)
    except (OSError, TypeError):
        text = f"{described.__module__}.{described.__qualname__}"
    return hashlib.sha256(text.encode()).hexdigest()
