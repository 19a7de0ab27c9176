"""Pages of HTML from the templates in r1jax/assets, where all that is put in is escaped."""

from collections.abc import Callable

import jinja2


def templates(**filters: Callable) -> jinja2.Environment:
    """The templates, which may use `filters`. A name that a page lacks is an error."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("r1jax", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= filters
    return found
