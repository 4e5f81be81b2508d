"""The demo: everything it shows must have gone as it should, and nothing of it may stay."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = [sys.executable, str(ROOT / "examples/demo.py"), "--name", "t-demo"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the demo makes network namespaces")


def leftovers() -> list[str]:
    """Return what exists of the demo's sandbox on this machine."""
    found = [str(path) for path in Path("/run/netns").glob("inroad-t-demo.*")]
    home = Path("/run/inroad-sandbox/t-demo")
    return [*found, str(home)] if home.exists() else found


def test_the_demo_shows_that_it_works() -> None:
    done = subprocess.run(DEMO, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert done.stdout.count("traffic-manager-") >= 5
    assert "The host is as it was" in done.stdout
    assert "\x1b" not in done.stdout, "no colours where there is no terminal"
    assert leftovers() == []


@pytest.mark.parametrize("line", ["A cluster in network namespaces", "From the workstation"])
def test_an_interrupted_demo_leaves_nothing(line: str) -> None:
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for text in demo.stdout:
            if line in text:
                break
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 130, errors
    assert "interrupted" in errors
    assert leftovers() == []
