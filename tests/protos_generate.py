"""Generate the Python code of protos/router/v1 into a source root: `python -m tests.protos_generate DIRECTORY`.

One command for `make protos` and for the test that compares, so they cannot differ. Service stubs are generated only
for the files that hold services; the others would give empty modules.
"""

import shutil
import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GOOGLE_PROTOS = Path(grpc_tools.__file__).parent / "_proto"


def generate(target: Path) -> None:
    """Write router/v1/*_pb2*.py[i] below `target`.

    Raises:
        RuntimeError: protoc failed; its own message is on standard error.
    """
    # protoc looks its plugins up on PATH; the running interpreter's own directory has the one we locked.
    plugin = shutil.which("protoc-gen-mypy_grpc", path=str(Path(sys.executable).parent))
    if plugin is None:
        raise RuntimeError("protoc-gen-mypy_grpc is not installed; run `make setup`")
    files = sorted(PROTOS.glob("router/v1/*.proto"))
    names = [str(file.relative_to(PROTOS)) for file in files]
    services = [
        name for name, file in zip(names, files, strict=True) if "\nservice " in file.read_text("utf-8")
    ]
    includes = [f"-I{PROTOS}", f"-I{GOOGLE_PROTOS}"]
    messages = ["protoc", *includes, f"--python_out={target}", f"--pyi_out={target}", *names]
    stubs = [
        "protoc",
        *includes,
        f"--plugin=protoc-gen-mypy_grpc={plugin}",
        f"--grpc_python_out={target}",
        f"--mypy_grpc_out=quiet:{target}",
        *services,
    ]
    for arguments in (messages, stubs):
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc failed: {' '.join(arguments)}")


if __name__ == "__main__":
    generate(Path(sys.argv[1]).resolve())
