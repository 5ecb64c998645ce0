"""The contract: generated code is current, and the protos keep the house rules."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from google.protobuf import descriptor

from router.v1 import (
    accounting_pb2,
    content_pb2,
    feedback_service_pb2,
    operator_service_pb2,
    router_service_pb2,
    routing_pb2,
    session_service_pb2,
)
from tests.protos_generate import PROTOS, ROOT, generate

FILES = (
    accounting_pb2,
    content_pb2,
    feedback_service_pb2,
    operator_service_pb2,
    router_service_pb2,
    routing_pb2,
    session_service_pb2,
)


@pytest.mark.slow
def test_committed_code_is_what_the_protos_generate(tmp_path: Path) -> None:
    """Regenerating changes nothing: nobody edits generated code, nobody forgets to generate."""
    generate(tmp_path)
    made = {path.name: path.read_text("utf-8") for path in (tmp_path / "router" / "v1").iterdir()}
    kept = {
        path.name: path.read_text("utf-8")
        for path in (ROOT / "router" / "v1").iterdir()
        if path.suffix in {".py", ".pyi"} and path.name != "__init__.py"
    }
    assert made == kept


@pytest.mark.slow
def test_buf_lint_is_clean() -> None:
    """The protos keep buf's STANDARD and COMMENTS rules."""
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("npm is not on this machine, so buf cannot be had")
    version = subprocess.run(
        [npx, "--yes", "@bufbuild/buf@1.75.0", "--version"],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    if version.returncode != 0:
        pytest.skip("the npm registry is out of reach, so buf cannot be had")
    lint = subprocess.run(
        [npx, "--yes", "@bufbuild/buf@1.75.0", "lint"],
        cwd=PROTOS,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr


NUMERIC = {
    descriptor.FieldDescriptor.CPPTYPE_DOUBLE,
    descriptor.FieldDescriptor.CPPTYPE_FLOAT,
    descriptor.FieldDescriptor.CPPTYPE_INT32,
    descriptor.FieldDescriptor.CPPTYPE_INT64,
}


def _messages():
    for module in FILES:
        pending = list(module.DESCRIPTOR.message_types_by_name.values())
        while pending:
            message = pending.pop()
            yield message
            pending.extend(message.nested_types)


def test_money_is_an_integer_of_nano_usd() -> None:
    """No field holds money in floating point."""
    for message in _messages():
        for field in message.fields:
            if re.search(r"usd|cost|price|saving", field.name) and field.cpp_type in NUMERIC:
                if field.name.endswith("_count"):
                    continue
                assert field.cpp_type == field.CPPTYPE_INT64, field.full_name
                assert field.name.endswith("_nano_usd"), field.full_name


def test_no_field_is_unsigned() -> None:
    """Unsigned fields make a client's bug a huge number instead of an error we can name."""
    for message in _messages():
        for field in message.fields:
            assert field.cpp_type not in {field.CPPTYPE_UINT32, field.CPPTYPE_UINT64}, field.full_name


def test_every_rpc_has_its_own_request_and_response() -> None:
    """An RPC can grow without touching another."""
    seen: set[str] = set()
    for module in FILES:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                assert method.input_type.name == f"{method.name}Request"
                assert method.output_type.name == f"{method.name}Response"
                assert not seen & {method.input_type.name, method.output_type.name}
                seen |= {method.input_type.name, method.output_type.name}
    assert len(seen) == 28
