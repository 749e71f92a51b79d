#!/bin/sh
# Does the corpus help? The encoder fine-tuned alike on (a) the public pool, (b) the corpus, (c) both, and measured
# zero-shot on sets that none of them holds. benches/corpus/RESULTS.md is the table, docs/lab/LOG.md says what it led to.
#
# Cost: 600 steps of 32 turns each: 9, 14 and 12 minutes on one core; the evaluation 3 minutes; 3 GB of memory; no GPU.
# Made: benches/corpus/proof.json. Last run: 2026-11-24, with the encoder of before docs/decisions/0009, which added turns
# up one by one, and equal weights for all sources but those that 98c2225 lists.
# Needs: pip install 'pointsman[train]', and DATA, the folder of the routing data (train/, dev/, policies/).
# Run again, it goes on.
set -eu
cd "$(dirname "$0")/.."
DATA=${DATA:?folder of the routing data}
WORK=${WORK:-build/corpus-proof}
STEPS=${STEPS:-600}
pointsman corpus build corpus --out "$WORK/corpus"

tune() { # NAME --data FOLDER ...
    name=$1
    shift
    pointsman train encoder runs/corpus-proof.toml --threads 1 --steps "$STEPS" "$@" \
        --work "$WORK/$name" --out "$WORK/$name-weights"
}
tune pool --data "$DATA"
tune corpus-only --data "$WORK/corpus"
tune both --data "$DATA" --data "$WORK/corpus"
pointsman train encoder runs/untrained.toml --data "$WORK/corpus" --work "$WORK/none" --out "$WORK/untrained-weights"

pointsman eval --data "$DATA" --split dev --size all --size 10 --scenario fqfa --resume --out "$WORK/proof.json" \
    --only arena-hard,just-eval,everyday-apps,mmlu-domains,sgd,clinc150 \
    --router "encoder@$WORK/untrained-weights" --router "encoder@$WORK/pool-weights" \
    --router "encoder@$WORK/corpus-only-weights" --router "encoder@$WORK/both-weights"
mkdir -p benches/corpus
cp "$WORK/proof.json" benches/corpus/proof.json
