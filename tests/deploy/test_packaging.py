"""What is installed and handed on: versions, licences, the Makefile."""

import ast
import hashlib
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]

APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


# --- what is installed ---------------------------------------------------------------------------------------------


# A CUDA build of torch brings these; torch itself says which, and a CPU build has none.
GPU_ONLY = ("cuda-", "nvidia-", "triton")


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def closure() -> dict[str, str]:
    """All that the project brings on this machine, with every extra: from name to version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = sum(project["optional-dependencies"].values(), project["dependencies"])
    to_do = [requirement for requirement in map(Requirement, wanted) if applies(requirement, "")]
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    while to_do:
        requirement = to_do.pop()
        name = canonicalize_name(requirement.name)
        distribution = importlib.metadata.distribution(name)
        found[name] = distribution.version.split("+")[0]
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                to_do += [each for each in map(Requirement, distribution.requires or []) if applies(each, extra)]
    return found


def applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def test_everything_that_is_installed_is_pinned_to_the_version_that_is_installed() -> None:
    pinned = pins()
    needed = {name: version for name, version in closure().items() if not name.startswith(GPU_ONLY)}
    assert len(needed) > 50
    assert needed == {name: pinned.get(name, "not pinned") for name in needed}


def test_the_build_backend_is_pinned() -> None:
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert {*backend, "editables"} <= pins().keys()


def test_the_pins_fit_machines_with_and_without_a_gpu() -> None:
    assert not any(name.startswith(GPU_ONLY) for name in pins())
    assert not any("+" in version for version in pins().values())
    assert "torchvision" not in pins()


def test_the_licence_is_the_apache_licence() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2


def test_the_notice_names_every_photograph_that_was_trained_on() -> None:
    tree = ast.parse((ROOT / "tools/training_images.py").read_text())
    given = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    notice = (ROOT / "NOTICE").read_text()
    for photograph in (*ast.literal_eval(given["SKIMAGE"]), *ast.literal_eval(given["SKLEARN"]), "chelsea"):
        assert re.search(rf"\b{re.escape(photograph)}\b", notice), photograph


# --- make ----------------------------------------------------------------------------------------------------------

SERVICE = """#!/bin/sh
trap 'echo interrupted; exit 0' INT
echo "serving $$"
while :; do sleep 0.05; done
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`make serve` with a service that only waits, in a process group of its own as under a terminal."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    vxl = tmp_path / ".venv/bin/vxl"
    vxl.parent.mkdir(parents=True)
    vxl.write_text(SERVICE)
    vxl.chmod(0o755)
    (tmp_path / ".venv/.installed").touch()
    # A make that runs these tests must not pass its own options on.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MFLAGS"}
    with subprocess.Popen(
        ["make", "serve"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background jobs ignore SIGINT, and so would all that these tests start in one; a terminal's do not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as make:
        yield make
        with suppress(ProcessLookupError):
            os.killpg(make.pid, signal.SIGKILL)


def test_ctrl_c_of_make_serve_reaches_the_service_and_leaves_nothing(served: subprocess.Popen[str]) -> None:
    assert served.stdout
    assert served.stdout.readline() == "exec .venv/bin/vxl serve\n"
    service = int(served.stdout.readline().removeprefix("serving "))
    os.killpg(served.pid, signal.SIGINT)  # a terminal signals the whole group
    assert "interrupted" in served.stdout.read()
    served.wait(10)
    for _ in range(100):
        if not Path(f"/proc/{service}").exists():
            return
        time.sleep(0.05)
    pytest.fail("the service outlived make")
