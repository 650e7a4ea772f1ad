"""The predict path needs no torch, and a verb imports only what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PREDICT_PATH = ("check", "tile", "encode", "predict", "report", "summarise")


def run_python(root: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={"PYTHONPATH": str(root / "python"), "PATH": "/usr/bin:/bin"},
    )


@pytest.mark.parametrize("module", ["numpy", "pyarrow", "onnxruntime", "anndata", "boto3", "cv2", "tritonclient"])
def test_help_imports_nothing_heavy(root: Path, module: str) -> None:
    code = (
        "import sys, histocast.cli as cli\n"
        "sys.argv = ['histocast', 'encode', '--help']\n"
        "try: cli.main()\n"
        f"except SystemExit: assert {module!r} not in sys.modules\n"
        "else: raise AssertionError('no exit')\n"
    )
    result = run_python(root, code)
    assert result.returncode == 0, result.stderr


def test_a_slide_is_predicted_where_torch_is_not_installed(root: Path, tmp_path: Path) -> None:
    """The training extra is made unimportable, then a slide goes from pixels to report."""
    code = f"""
import sys
for name in ("torch", "onnx", "onnxscript", "scanpy", "sklearn", "jaxtyping", "skimage", "matplotlib"):
    sys.modules[name] = None
import numpy as np
from pathlib import Path
from PIL import Image
rows, columns = np.mgrid[:1500, :1500]
tissue = ((rows - 750) ** 2 + (columns - 750) ** 2 < 600 ** 2)[..., None]
random = np.random.default_rng(0)
cells = np.kron(random.integers(-45, 45, (125, 125, 1)), np.ones((12, 12, 1)))
pixels = np.where(tissue, (190, 110, 165) + cells, (243, 242, 244)) + random.integers(-20, 20, (1500, 1500, 3))
out = Path({str(tmp_path)!r})
Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out / "slide.png")
from histocast.cli import main
sys.argv = ["histocast", "predict-slide", str(out / "slide.png"), "--sample", "S1", "--mpp", "0.5",
            "--bundle", {str(root / "assets" / "demo-bundle")!r}, "--outdir", str(out / "out")]
try: main()
except SystemExit as ended: assert not ended.code
import anndata
table = anndata.read_h5ad(out / "out" / "S1.h5ad")
assert table.n_obs > 20 and np.isfinite(table.X).all(), table
assert (out / "out" / "S1.html").stat().st_size > 10_000
"""
    result = run_python(root, code)
    assert result.returncode == 0, result.stderr
