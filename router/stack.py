"""Where an error came from, fit for a log: types and places, never an exception's text.

The rule: the text of an exception may quote a prompt, so logs show what kind of error it was and the lines it passed.
"""

import traceback


def type_name(error: BaseException) -> str:
    """Return the qualified name of an error's class, without the module for built-in ones."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def stack_of(error: BaseException) -> str:
    """Format where an error came from, with its causes' types, without any exception's text."""
    lines: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        lines += [f"{type_name(seen)} raised at\n", *traceback.format_tb(seen.__traceback__)]
        if isinstance(seen, BaseExceptionGroup):
            for each in seen.exceptions:
                lines.append(stack_of(each))
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return "".join(lines)
