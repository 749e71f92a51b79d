#!/bin/sh
# The embedded router's weights: all-MiniLM-L6-v2, fine-tuned on a pool of public conversations, averaged 60 to 40 with
# the original, to int8 ONNX with its card. The constants on the card are fixed by hand (docs/lab/LOG.md).
#
# Cost: 700 steps of 32 turns, 15 minutes on one shared core, 2 GB of memory; no GPU. On another
# processor bfloat16 rounds otherwise, and so do the weights. Last run: 2026-11-23.
# Made: src/pointsman/routers/weights/minilm-l6-v2-pool1 (23 MB).
# Needs: pip install 'pointsman[train]', and DATA, the folder that holds train/ and policies/. Run again, it goes on.
set -eu
cd "$(dirname "$0")/.."

python -m pointsman.training.finetune \
    --data "${DATA:?folder of the routing data}" \
    --work "${WORK:-build/encoder}" \
    --out src/pointsman/routers/weights/minilm-l6-v2-pool1 \
    --steps 700 --rate 3e-5 --seed 0 --soup 0.6
