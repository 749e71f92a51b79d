#!/bin/sh
# The embedded router's weights: all-MiniLM-L6-v2 to int8 ONNX, with its card. Nothing is trained.
#
# Cost: about 20 seconds and 1 GB of memory on one core; no GPU. Last run: 2026-11-23.
# Made: src/pointsman/routers/weights/minilm-l6-v2 (23 MB), bit for bit the same on a second run.
# Needs: pip install 'pointsman[train]'
set -eu
cd "$(dirname "$0")/.."

python -m pointsman.training.export --out src/pointsman/routers/weights/minilm-l6-v2
