#!/usr/bin/env bash
# One build made by an array of Slurm tasks, one GPU each, over storage that all nodes share.
#
#   sbatch --array=0-7 --partition=gpu jobs/slurm.sh CONFIG MANIFEST BUILD [OPTIONS OF wordweave build]
#
# Submit in the checkout. Every task runs the same command; the engine `local` claims parts one at a time, so tasks may
# start late, end early or be preempted. A task that reaches its time limit puts itself back into the queue.
# Without GPUs ([units] device = "cpu"): sbatch --array=0-31 --gpus-per-task=0 --cpus-per-task=1 --mem=4G ...
#
#   WORDWEAVE   the program (default: .venv/bin/wordweave of the checkout)
#SBATCH --job-name=wordweave
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@180
#SBATCH --open-mode=append
#SBATCH --output=wordweave-%A_%a.log
set -euo pipefail

if (($# < 3)); then
  echo "slurm.sh: need CONFIG MANIFEST BUILD, got $# arguments; sbatch --array=0-7 jobs/slurm.sh CONFIG MANIFEST BUILD" >&2
  exit 2
fi
config=$1 manifest=$2 build=$3
shift 3
cd "${SLURM_SUBMIT_DIR:-.}" # Slurm runs a copy of this file
wordweave=${WORDWEAVE:-$PWD/.venv/bin/wordweave}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# The time limit: stop as Ctrl-C would, then queue again. Finished parts are kept.
queue_again() {
  kill -INT "$child" 2>/dev/null || true
  wait "$child" || true
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}
trap queue_again TERM

set -m # job control: without it bash starts a background program with SIGINT ignored
"$wordweave" build "$config" --source "$manifest" --build "$build" --engine local "$@" &
child=$!
wait "$child"
