"""Write docs/model_zoo.md: parameters and FLOPs of every config beside published figures.

The same rows, with what `tools/benchmark.py backbones` measured, are saved for the playground, and
as the index by which OpenMIM and `mmengine.hub` find the configs.

Usage: python tools/model_zoo.py
"""

import argparse
import json
import sys
from pathlib import Path

from rich.progress import track

from hybrid_backbones.benchmark import model_index
from hybrid_backbones.benchmark.zoo import find_configs, measure_config, write_zoo
from hybrid_backbones.benchmark.zoo_table import FILE, add_measured, save_zoo
from hybrid_backbones.config_files import MIM
from hybrid_backbones.training.errors import one_line_errors

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    argparse.ArgumentParser(description="Write the model zoo page.").parse_args()
    with one_line_errors():
        paths = find_configs(ROOT / "configs")
        rows = [measure_config(path) for path in track(paths, "counting")]
        page = ROOT / "docs" / "model_zoo.md"
        page.parent.mkdir(exist_ok=True)
        page.write_text(write_zoo(rows))
        measured = json.loads((ROOT / "docs" / "benchmarks" / "cpu_backbones.json").read_text())
        index = MIM / model_index.FILE
        index.write_text(model_index.write_index(rows), encoding="utf-8")
        save_zoo(add_measured(rows, measured), ROOT / "hybrid_backbones" / "benchmark" / FILE)
    print(f"wrote {page} with {len(rows)} configs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
