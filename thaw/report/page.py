"""The report of a run as one HTML file that needs no other file and no network.

A page is a list of sections. `thaw.report.sections` makes those of the recipe; a project adds its
own, see docs/report.md. The same input gives the same bytes, so a page carries no date.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor and title in the menu, and its HTML. A plain str is
    escaped."""

    anchor: str
    title: str
    body: "Markup | str"


def html(title: str, top: "Markup | str", sections: Sequence[Section]) -> str:
    """The whole page, with `top` above the menu."""
    return environment().get_template("page.html.jinja").render(title=title, top=top, sections=sections)


def rendered(macro: str, **values: Any) -> "Markup":
    """A macro of sections.html.jinja, filled in."""
    template: Any = environment().get_template("sections.html.jinja").module
    part: Markup = getattr(template, macro)(**values)
    return part


@cache
def environment() -> "Environment":
    """The templates of this package, with escaping of users' texts."""
    import jinja2

    def text_of(name: str) -> str:
        return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(text_of),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
