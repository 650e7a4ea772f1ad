"""The verb `doctor`: what is installed on this machine, and whether a bundle, a slide and servers can be used from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

from histocast.errors import HistocastError
from histocast.stages.stage import TEXT, Mpp, Stage

TRAINING = ("torch", "onnxscript", "scikit-learn")
COHORT = ("scanpy", "polars")
SPATIALDATA = ("spatialdata",)
GENES = ("sentence-transformers", "biopython", "openai")
"""What tells whether an extra of the package is installed."""

PROGRAM_PATIENCE_S = 60
"""How long a program may take to say its version: Nextflow starts a Java machine."""


class Finding(NamedTuple):
    """One line of the verb's answer."""

    state: Literal["ok", "note", "fault"]
    """``note`` for what is absent and not always needed."""
    subject: str
    text: str
    exit_code: int = 0


class Doctor(Stage):
    """Say what is installed and what can be used.

    Prints one line for each finding: ok, note (absent, and needed only for some work) or fault. Servers are asked where
    HISTOCAST_TRITON_URL names them. Exits with the code of the first fault.
    """

    bundle: Annotated[str | None, TEXT] = None
    """A bundle to verify: folder or s3:// prefix."""
    slide: Annotated[str | None, TEXT] = None
    """A slide to open, from disk or s3://."""
    mpp: Mpp = None

    def run(self) -> Iterator[Finding]:
        """Yield what is found, quick answers first."""
        return diagnose(bundle=self.bundle, slide=self.slide, mpp=self.mpp)

    def lines(self, result: Iterator[Finding]) -> Iterator[str]:
        """One line for each finding, as soon as it is known; then exit where there was a fault."""
        codes = []
        for finding in result:
            yield f"{finding.state:6}{finding.subject:11}{finding.text}".replace("\n", f"\n{'':17}")
            codes += [finding.exit_code] * (finding.state == "fault")
        if codes:
            sys.exit(codes[0])


def diagnose(*, bundle: str | None, slide: str | None, mpp: float | None) -> Iterator[Finding]:
    """Yield what is found, quick answers first."""
    from histocast.software import software_versions

    versions = software_versions(*TRAINING, *COHORT, *SPATIALDATA, *GENES)
    yield Finding("ok", "histocast", f"{versions['histocast']}, Python {versions['python']}")
    yield _try("processors", _processors)
    yield _gpu(versions)
    yield _packages("training", "train", TRAINING, versions)
    yield _packages("cohorts", "cohort", COHORT, versions)
    yield _packages("formats", "spatialdata", SPATIALDATA, versions)
    yield _packages("genes", "genes", GENES, versions)
    for program, needed in (("nextflow", "to run the pipeline"), ("java", "by Nextflow, 17 or later")):
        yield _program(program, needed)
    engines = [name for name in ("docker", "podman", "apptainer", "singularity") if shutil.which(name)]
    yield Finding(
        "ok" if engines else "note",
        "containers",
        ", ".join(engines) or "no engine on PATH; without one, tasks run here",
    )
    yield _try("scratch", _scratch)
    if bundle:
        yield _try("bundle", lambda: _bundle(bundle))
    if slide:
        yield _try("slide", lambda: _slide(slide, mpp))


def _try(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding("ok", subject, look())
    except HistocastError as error:
        return Finding("fault", subject, str(error), error.exit_code)


def _processors() -> str:
    from histocast.resources import available_threads

    return f"{available_threads()} that this process may use"


def _gpu(versions: dict[str, str]) -> Finding:
    """What the driver shows, and whether the onnxruntime that is installed can use it."""
    runtime = f"onnxruntime {versions.get('onnxruntime-gpu') or versions.get('onnxruntime', 'absent')}"
    shown = _answer("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader").splitlines()
    if not shown:
        return Finding("note", "GPU", f"none is seen by nvidia-smi; graphs run on processors ({runtime})")
    gpus = f"{len(shown)}: {shown[0]}"
    if "onnxruntime-gpu" not in versions:
        return Finding("note", "GPU", f"{gpus}; not used: {runtime} has no CUDA, onnxruntime-gpu has")
    return Finding("ok", "GPU", f"{gpus}; onnxruntime-gpu {versions['onnxruntime-gpu']}")


def _packages(subject: str, extra: str, names: Sequence[str], versions: Mapping[str, str]) -> Finding:
    if absent := [name for name in names if name not in versions]:
        return Finding("note", subject, f"{', '.join(absent)} absent: pip install 'histocast[{extra}]'")
    return Finding("ok", subject, ", ".join(f"{name} {versions[name]}" for name in names))


def _program(name: str, needed: str) -> Finding:
    if not shutil.which(name):
        return Finding("note", name, f"not on PATH; needed {needed}")
    lines = [line.strip() for line in _answer(name, "-version").splitlines() if "version" in line]
    return Finding("ok", name, lines[0] if lines else "present, and does not say its version")


def _answer(*command: str) -> str:
    """What a program prints, or nothing where it is absent or fails."""
    try:
        done = subprocess.run(  # noqa: S603 - the names are those above
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PROGRAM_PATIENCE_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _scratch() -> str:
    from histocast.resources import scratch_folder

    with scratch_folder() as folder:
        return f"{folder.parent}, {shutil.disk_usage(folder).free / 1e9:.0f} GB free"


def _bundle(uri: str) -> str:
    from histocast.inference import verify_bundle, verify_servers
    from histocast.resources import scratch_folder
    from histocast.stages.environment import fetch_bundle, triton_url

    with scratch_folder() as scratch:
        folder, _ = fetch_bundle(uri, scratch)
        read = verify_bundle(folder)
    if servers := triton_url():
        verify_servers(read, triton_url=servers)
    encoders = ", ".join(encoder.name for encoder in read.encoders)
    served = f", served by {servers}" if servers else ""
    return f"{read.name} {read.version}: {read.gene_count} genes, {encoders}, tiles of {read.geometry.um_per_px} um/px{served}"


def _slide(uri: str, mpp: float | None) -> str:
    from histocast.stages.predict_slide import open_slide

    with open_slide(uri, mpp=mpp) as slide:
        facts = slide.facts
    return f"{facts.width_px} x {facts.height_px} px, {facts.um_per_px:.4g} um/px ({facts.um_per_px_source}), reader {facts.reader}"
