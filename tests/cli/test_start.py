"""The predict path needs no torch, and a verb imports only what it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run_python(root: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={"PYTHONPATH": str(root / "python"), "PATH": "/usr/bin:/bin"},
    )


def test_help_imports_nothing_heavy(root: Path) -> None:
    heavy = {"numpy", "pyarrow", "onnxruntime", "anndata", "pandas", "scipy", "boto3", "obstore", "cv2", "tritonclient"}
    code = (
        "import sys, histocast.cli as cli\n"
        "sys.argv = ['histocast', 'encode', '--help']\n"
        "try: cli.main()\n"
        f"except SystemExit: assert not {heavy} & set(sys.modules)\n"
        "else: raise AssertionError('no exit')\n"
    )
    result = run_python(root, code)
    assert result.returncode == 0, result.stderr


NEVER = {
    *("boto3", "botocore", "obstore", "tritonclient", "grpc"),  # for S3 and for servers
    *(
        "torch",
        "sklearn",
        "matplotlib",
        "polars",
        "scanpy",
        "Bio",
        "openai",
        "transformers",
    ),  # for training, cohorts, genes
    *("dask", "spatialdata", "xarray", "numba"),  # what anndata can be used with
    *("scipy.cluster", "scipy.stats", "scipy.optimize"),  # for slides of more tiles
}
TABLES = {"anndata", "scipy", "h5py", "zarr", "jinja2"}
PIXELS = {"cv2", "openslide", "tifffile", "imagecodecs"}
UNWANTED = {
    "check": NEVER | TABLES | PIXELS,
    "tile": NEVER | TABLES,
    "encode": NEVER | TABLES,
    "predict": NEVER | {"jinja2"},
    "report": NEVER,
    "summarise": NEVER,
}


def test_a_verb_at_work_imports_what_it_uses(root: Path, tmp_path: Path) -> None:
    """The verbs of a small slide one after the other in one process: what one has not imported, none before it has."""
    code = f"""
import sys
sys.path.append({str(root / "benchmarks")!r})
from pathlib import Path
from startup import make_slide, verb_arguments
from histocast.cli import main
folder = Path({str(tmp_path)!r})
make_slide(folder)
for verb, arguments in verb_arguments(folder).items():
    sys.argv = ["histocast", verb, *arguments]
    try: main()
    except SystemExit as ended: assert not ended.code
    unwanted = {UNWANTED!r}[verb] & set(sys.modules)
    assert not unwanted, f"{{verb}}: {{unwanted}}"
"""
    result = run_python(root, code)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "summary.html").is_file()


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
