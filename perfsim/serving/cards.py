"""What the inputs of serving show of themselves in a notebook."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from perfsim import html

__all__ = ["field_texts", "fields_card"]


def field_texts(value: Any, without: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Give the fields of a dataclass, each with its value in the unit that its name ends in.

    Examples
    --------
    >>> from perfsim.serving.deployment import Deployment
    >>> dict(field_texts(Deployment(transfer_latency_s=2e-3), without=["spill"]))["transfer_latency_s"]
    '2 ms'
    """
    for field in dataclasses.fields(value):
        if field.name not in without:
            yield field.name, _text(field.name, getattr(value, field.name))


def _text(name: str, value: Any) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, Path) else html.quantity(name, value)


def fields_card(title: str, value: Any) -> str:
    """A title and the fields of a dataclass."""
    return html.card(title, html.facts(field_texts(value)))
