"""Choice of reconviagen's engine: a requested engine or device is never replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from steps.reconviagen.engines import choose
from steps.runtime.contract import Reconviagen
from steps.runtime.errors import StepError


def asked(engine: str, device: str) -> Reconviagen:
    folder = Path("x")
    return Reconviagen(out=folder, outputs=folder, scene=folder, engine=engine, device=device)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_auto_takes_fusion_and_says_why(device: str) -> None:
    choice = choose(asked("auto", device))
    assert (choice.engine, choice.device) == ("fusion", "cpu")
    assert "no weights" in choice.reason
    assert choose(asked("fusion", device)).reason == "asked for by name"


@pytest.mark.parametrize(
    ("engine", "device", "code"),
    [
        ("reconviagen", "auto", "WEIGHTS_MISSING"),
        ("auto", "cuda", "GPU_UNAVAILABLE"),
        ("fusion", "cuda", "GPU_UNAVAILABLE"),
    ],
)
def test_what_cannot_run_as_asked_does_not_run(engine: str, device: str, code: str) -> None:
    with pytest.raises(StepError) as failure:
        choose(asked(engine, device))
    assert failure.value.code == code
    assert failure.value.suggestion
