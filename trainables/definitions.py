"""What a Python file defines, read from its text without running it."""

import ast

_LITERALS = (ast.Constant, ast.JoinedStr, ast.List, ast.Tuple, ast.Dict, ast.Set)


def functions(tree: ast.Module) -> list[str]:
    """Names of the functions and classes that a module defines, in alphabetical order."""
    return sorted({node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)})


def misfit(tree: ast.Module, name: str, or_none: bool = False) -> str | None:
    """Why a name of a module cannot be called with one argument, e.g. ``"is async"``; ``None`` where it might.

    Only what is certain counts: whatever else could bind the name somewhere will do.

    Args:
        tree: of the whole module.
        name: of what is to be called.
        or_none: whether a call without arguments would do as well.
    """
    binders = [node for node in ast.walk(tree) if _binds(node, name)]
    if not binders:
        return "is not defined"
    if len(binders) > 1:
        return None
    for statement in tree.body:
        if statement is binders[0]:
            return _misfit_of_function(statement, or_none)
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if targets == binders and isinstance(value := getattr(statement, "value", None), _LITERALS):
            return f"is {ast.unparse(value)[:40]}"
    return None


def _binds(node: ast.AST, name: str) -> bool:
    """Whether a node gives a name its value; an import of everything might."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name == name
    if isinstance(node, ast.Import | ast.ImportFrom):
        return any((alias.asname or alias.name) in (name, "*") for alias in node.names)
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id == name


def _misfit_of_function(node: ast.stmt, or_none: bool) -> str | None:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.decorator_list:
        return None
    if isinstance(node, ast.AsyncFunctionDef):
        return "is async"
    wanted = node.args
    positional = [*wanted.posonlyargs, *wanted.args]
    required = [argument.arg for argument in positional[: len(positional) - len(wanted.defaults)]]
    required += [a.arg for a, default in zip(wanted.kwonlyargs, wanted.kw_defaults, strict=True) if default is None]
    if not positional and wanted.vararg is None:
        return None if or_none and not required else "takes no argument"
    by_keyword = len(required) == 1 and not positional
    return f"needs the arguments {', '.join(required)}" if len(required) > 1 or by_keyword else None
