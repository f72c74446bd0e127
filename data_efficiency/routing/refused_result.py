"""What is put in the place of a layer's results that go with a part of the tokens or rows."""

from typing import Any, NoReturn

from torch.utils._pytree import tree_leaves


class RefusedResult:
    """Stands for attention weights and the like of a routed layer: an error as soon as it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # asked by Python itself, as in a copy
            raise AttributeError(attribute)
        self._refuse()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        next(one for one in tree_leaves((args, kwargs)) if isinstance(one, RefusedResult))._refuse()

    def _refuse(self, *_: Any) -> NoReturn:
        raise ValueError(
            f"{self._name} returned, beside the hidden states, a tensor that goes with the kept tokens "
            "or rows only: do not use attention weights or caches in training with random-LTD or layer dropout"
        )

    __add__ = __radd__ = __mul__ = __rmul__ = __getitem__ = __iter__ = __len__ = __bool__ = _refuse
