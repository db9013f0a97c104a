"""Diagnose the installation and suggest remedies; exit with 1 if training cannot start.

Usage: python tools/doctor.py
"""

import argparse
import runpy
import sys
from pathlib import Path

argparse.ArgumentParser(description="Diagnose the installation.").parse_args()
# run by path, since `import hybrid_backbones` may fail
package = Path(__file__).resolve().parents[1] / "hybrid_backbones"
installation = runpy.run_path(str(package / "installation.py"))
doctor = runpy.run_path(str(package / "doctor.py"), installation)
sys.exit(doctor["main"]())
