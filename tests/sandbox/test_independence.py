"""The sandbox catches the planner's mistakes only because it shares nothing with it."""

import ast
import pathlib
import sys

import router.sandbox

ALLOWED = {"httpx2", "aiohttp", "msgspec"}


def test_sandbox_imports_nothing_of_ours_and_only_three_libraries():
    """Every import is the standard library, one of three libraries, or the sandbox itself; none is relative."""
    folder = pathlib.Path(router.sandbox.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, path.name
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                ours = name == "router.sandbox" or name.startswith("router.sandbox.")
                assert ours or top in ALLOWED or top in sys.stdlib_module_names, f"{path.name}: {name}"
