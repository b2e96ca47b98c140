#!/bin/bash
# A training on machines that Slurm hands out, from a checkout on a shared folder:
#
#   sbatch cluster/slurm.sh revseg_7b name=night train.steps=300
#
# Ten minutes before the end of its time, or before a preemption, the job is asked to stop: it
# finishes the step, writes a checkpoint and goes back into the queue, where the same command goes on.
#SBATCH --job-name=rayvos
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --signal=B:TERM@600
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

# The code of a stop on request (docs/training.md).
STOPPED=75
# Most seconds until the head answers.
HEAD_S=300

cd "${SLURM_SUBMIT_DIR:?is set by sbatch: give this file to sbatch, in the checkout}"
export PATH="$PWD/.venv/bin:$PATH" RAY_AUTH_MODE=token
# The home folder is the same on all nodes, and so is the token.
test -s "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" || ray get-auth-token --generate > /dev/null

# A name a line. `| head -n 1` would close the pipe on a slow scontrol, and end the job with it.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}
# Two jobs may share the head's machine, unless --exclusive stays.
address=$head:$((20000 + SLURM_JOB_ID % 10000))

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --block --head --port="${address##*:}" --dashboard-host=127.0.0.1 &
waited=0
until ray status --address "$address" > /dev/null 2>&1; do
    sleep 2
    waited=$((waited + 2))
    test "$waited" -lt "$HEAD_S" || { echo "Ray's head did not answer on $address" >&2; exit 1; }
done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    others=$((SLURM_JOB_NUM_NODES - 1))
    srun --overlap --nodes="$others" --ntasks="$others" --ntasks-per-node=1 --exclude="$head" \
        ray start --block --address="$address" &
fi

# As with an autoscaler, the job waits for the GPUs of nodes that are still joining.
python -m ray_jobs.train "$@" cluster.address="$address" cluster.autoscaler=yes \
    cluster.wait_s="$HEAD_S" &
training=$!
trap 'kill -TERM "$training" 2> /dev/null || true' TERM INT

# A signal ends `wait`, not the training.
code=0
wait "$training" || code=$?
while kill -0 "$training" 2> /dev/null; do
    code=0
    wait "$training" || code=$?
done
code=0
wait "$training" || code=$?

if [ "$code" -eq "$STOPPED" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
