"""DeepSeek-R1, end to end, in JAX; and as functions, for notebooks (`r1jax/notebook.py`)."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Problem", "grade", "open_model", "train_rl", "train_sft"]

if TYPE_CHECKING:
    from r1jax.notebook import Problem, grade, open_model, train_rl, train_sft


def __getattr__(name: str) -> Any:
    """Opened when asked for: to import one room of the house must not import them all."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from r1jax import notebook

    return getattr(notebook, name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
