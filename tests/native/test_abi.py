"""Our positions in onnxruntime's table of functions are those of the official header, where one is installed."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path

import pytest

from snn_extreme_quant_native.compilation import sources

#: Debian's libonnxruntime-dev; another place may be named in the environment.
_PLACES = [
    Path(os.environ.get("SXQ_ORT_HEADER", "onnxruntime_c_api.h")),
    Path("/usr/include/onnxruntime/onnxruntime_c_api.h"),
    Path("/usr/include/onnxruntime/core/session/onnxruntime_c_api.h"),
    Path("/usr/local/include/onnxruntime_c_api.h"),
]
_OWN = next(path for path in sources() if path.name == "abi.h").read_text()


def own_positions() -> dict[str, int]:
    """Position by name, both without case and underscores."""
    found = re.findall(r"^  ORT_([A-Z0-9_]+) = (\d+),$", _OWN.partition("Values of its")[0], re.MULTILINE)
    return {name.replace("_", "").lower(): int(position) for name, position in found}


def official_entries(header: str) -> list[str]:
    """Names of the members of ``struct OrtApi``, in order."""
    body = header[re.search(r"^struct OrtApi \{", header, re.MULTILINE).end() :]  # type: ignore[union-attr]
    body = re.sub(r"/\*.*?\*/|//[^\n]*", "", body[: re.search(r"^\};", body, re.MULTILINE).start()], flags=re.DOTALL)  # type: ignore[union-attr]
    entry = re.compile(
        r"ORT_API2_STATUS\(\s*(\w+)|ORT_CLASS_RELEASE\((\w+)\)|\(\s*(?:ORT_API_CALL\s*)?\*\s*(?:const\s+)?(\w+)\s*\)\s*\("
    )
    names = []
    for status, released, plain in entry.findall(body):
        names.append(status or (f"Release{released}" if released else plain))
    return names


def test_how_a_header_is_read() -> None:
    header = """
    struct OrtApi {
      /* ORT_API2_STATUS(NotThis) */
      OrtStatus*(ORT_API_CALL* CreateStatus)(OrtErrorCode code, _In_ const char* msg)NO_EXCEPTION;
      ORT_API2_STATUS(Run, _Inout_ OrtSession* session); // ORT_API2_STATUS(NorThis)
      ORT_CLASS_RELEASE(Env);
      const OrtTrainingApi*(ORT_API_CALL* GetTrainingApi)(uint32_t version)NO_EXCEPTION;
    };
    """
    assert official_entries(textwrap.dedent(header)) == ["CreateStatus", "Run", "ReleaseEnv", "GetTrainingApi"]


def test_no_position_is_used_twice() -> None:
    positions = own_positions()
    assert len(positions) == len(set(positions.values())) == 19


def test_positions_are_those_of_the_header() -> None:
    path = next((place for place in _PLACES if place.is_file()), None)
    if path is None:
        pytest.skip("no onnxruntime_c_api.h here (Debian: libonnxruntime-dev; or name it in SXQ_ORT_HEADER)")
    entries = [name.replace("_", "").lower() for name in official_entries(path.read_text())]
    for name, position in own_positions().items():
        if name != "entries":
            assert entries[position] == name, f"{name} is at {entries.index(name)}"
