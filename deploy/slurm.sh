#!/bin/bash
# One model on many nodes: an array job, of which each task scores one shard, and one that joins the
# shards when all have ended well.
#
#   deploy/slurm.sh MODEL.gguf SET OUTPUT [SHARDS [mmlu-eval options …]]
#   deploy/slurm.sh models/m.Q4_0.gguf eval-sets/mmlu outputs/mmlu-q4_0 8 --protocol letter --shots 5
#
# Paths are on a file system that all nodes see, or s3:// addresses, for which the AWS_… variables are
# taken from where this is called; QUANTKIT_CACHE may name a disk of the nodes for what is fetched. A
# task that is requeued goes on from its journal, on another node too.
set -euo pipefail

if [[ -z ${SLURM_ARRAY_TASK_ID:-} ]]; then
    model=$1 set=$2 output=$3 shards=${4:-8}
    array=$(sbatch --parsable --array="0-$((shards - 1))" --requeue --signal=TERM@60 \
        --cpus-per-task="${CPUS:-4}" --time="${TIME:-12:00:00}" --job-name=mmlu "$0" "$@")
    parts=()
    for ((index = 0; index < shards; index++)); do parts+=("$output/shard-$index"); done
    sbatch --dependency="afterok:$array" --job-name=mmlu-merge --wrap \
        "$(printf '%q ' quantkit merge "$output/whole" "${parts[@]}")"
    exit
fi

model=$1 set=$2 output=$3 shards=${4:-8}
shift "$(($# < 4 ? $# : 4))"
# The same number of threads on every node, so that every score has the same last digit.
exec srun quantkit --threads "$SLURM_CPUS_PER_TASK" mmlu-eval "$model" --set "$set" "$@" \
    --shard "$SLURM_ARRAY_TASK_ID/$shards" --output "$output/shard-$SLURM_ARRAY_TASK_ID"
