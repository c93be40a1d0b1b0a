"""Errors on the command line: one line each, with an exit status that says whose fault it was."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from perfsim.errors import InputError, PerfsimError

__all__ = ["Commands"]


class _Failure(click.ClickException):
    """What went wrong, on one line."""

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"perfsim: {' '.join(self.message.split())}", file=file, err=True)


class _Refusal(_Failure):
    """Bad input or a wrong call."""

    exit_code = 2


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turn every expected error into one line and an exit status: 2 for bad input, 1 for what cannot be done."""
    try:
        yield
    except InputError as error:
        raise _Refusal("; ".join(map(str, error.faults))) from error
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "perfsim"
        text = f"{error.format_message()} See {command} --help."
        raise _Refusal(text) from error
    except PerfsimError as error:
        raise _Failure(str(error)) from error
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever reads the output has enough of it; click ends quietly then
            raise
        raise _Failure(str(error)) from error
    except MemoryError as error:
        text = f"this computer has not memory enough for it. {error}"
        raise _Failure(text) from error


class Commands(click.Group):
    """Commands with errors of one line, click's own about wrong calls among them."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the words of a call."""
        with _one_line_errors():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Carry a call out."""
        with _one_line_errors():
            return super().invoke(ctx)
