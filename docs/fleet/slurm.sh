#!/bin/bash
# sbatch slurm.sh: sixteen shares of the plan, each on a machine of its own, and nothing between them but the store.
#SBATCH --job-name=inlier-fleet
#SBATCH --array=1-16
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail

inlier --quiet fleet train /shared/plant/plant.toml \
  --store /shared/plant/fleet \
  --on "shard:${SLURM_ARRAY_TASK_ID}/${SLURM_ARRAY_TASK_COUNT}" \
  --workers "${SLURM_CPUS_PER_TASK}"
