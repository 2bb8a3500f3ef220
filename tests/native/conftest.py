"""The native kernels are optional: where they cannot be compiled, their tests are skipped with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from snn_extreme_quant.deploy import native_status
from snn_extreme_quant.deploy.runtime.native import native_library


@pytest.fixture(scope="session")
def library() -> Any:
    status = native_status()
    if not status.available:
        pytest.skip(status.reason)
    return native_library()


@pytest.fixture(params=["avx512", "avx2", "portable"])
def instruction_set(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, library: Any) -> str:
    """Run a test with each set of kernels that this processor has."""
    monkeypatch.setenv("SXQ_NATIVE_ISA", request.param)
    if library.instruction_set != request.param:
        pytest.skip(f"this processor has no {request.param}")
    return str(request.param)
