#!/bin/sh
# The embedded router's weights: all-MiniLM-L6-v2, fine-tuned on the written corpus and a pool of public conversations as
# runs/encoder.toml says, averaged with the original, to int8 ONNX with its model card, and calibrated.
#
# Cost: 4,000 steps of 32 turns, three quarters of an hour on one core with AMX; 4 GB of memory; no GPU. On another
# processor bfloat16 rounds otherwise, and so do the weights. Last run: 2026-11-24; the weights that ship had the rate
# of a run of 5,000 steps for their first 2,050, and a corpus without the last 24 conversations and 16 mended items.
# Made: src/pointsman/routers/weights/minilm-l6-v2-pm1 (23 MB).
# Needs: pip install 'pointsman[train]', and DATA, the folder of the routing data (train/, dev/, policies/).
# Run again, it goes on.
set -eu
cd "$(dirname "$0")/.."
DATA=${DATA:?folder of the routing data}
OUT=src/pointsman/routers/weights/minilm-l6-v2-pm1
pointsman corpus build corpus --out build/corpus

# What figures are called zero-shot on: nothing of it may be learned from.
set --
for name in arena-hard clinc150 clinc150-multi everyday-apps just-eval mantis14 mmlu-domains sgd stackexchange \
    stackexchange-multi; do
    set -- "$@" --apart "$DATA/dev/$name.jsonl.gz"
done
pointsman train encoder runs/encoder.toml "$@" --threads "${THREADS:-1}" --data "$DATA" --data build/corpus \
    --evaluate "$DATA/dev/arena-hard.jsonl.gz" --evaluate "$DATA/dev/sgd.jsonl.gz" \
    --work "${WORK:-build/encoder}" --out "$OUT"
python runs/calibrate-encoder.py "$OUT" --data "$DATA" --corpus build/corpus --bias -0.3 --temperature 0.05
