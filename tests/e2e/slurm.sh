# shellcheck shell=bash
# Sourced by tests that need Slurm: a controller and one node of it on this machine, from the
# system's packages, in a folder of their own; `stop_slurm` ends them, by their ids.
# Sets SLURM_CONF.  Exits 77 where something is missing.

for tool in munged slurmctld slurmd srun sbatch scancel squeue sinfo; do
    PATH=$PATH:/usr/sbin command -v "$tool" >/dev/null || {
        echo "skipped: no $tool (packages munge, slurmctld, slurmd, slurm-client)"
        exit 77
    }
done
[ "$(id -u)" = 0 ] || {
    echo "skipped: slurmd has to run as root"
    exit 77
}
PATH=$PATH:/usr/sbin
cluster=$(mktemp -d /tmp/sluice-slurm-XXXXXX)
chmod 755 "$cluster"
mkdir "$cluster/spool" "$cluster/state"
slurm_pids=()

stop_slurm() {
    local pid
    for pid in "${slurm_pids[@]}"; do kill "$pid" 2>/dev/null; done
    for pid in "${slurm_pids[@]}"; do
        for _ in $(seq 100); do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2>/dev/null
        wait "$pid" 2>/dev/null
    done
    rm -rf "$cluster"
}

# Two ports that nobody listens at.
mapfile -t slurm_ports < <(python3 -c '
import socket
taken = [socket.socket() for _ in range(2)]
for s in taken:
    s.bind(("", 0))
    print(s.getsockname()[1])')
slurm_host=$(hostname -s)
cat >"$cluster/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$slurm_host(127.0.0.1)
SlurmctldPort=${slurm_ports[0]}
SlurmdPort=${slurm_ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$cluster/munge.socket
CredType=cred/munge
StateSaveLocation=$cluster/state
SlurmdSpoolDir=$cluster/spool
SlurmctldPidFile=$cluster/slurmctld.pid
SlurmdPidFile=$cluster/slurmd.pid
SlurmctldLogFile=$cluster/slurmctld.log
SlurmdLogFile=$cluster/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=30
MailProg=/bin/true
NodeName=$slurm_host NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=all Nodes=$slurm_host Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
export SLURM_CONF=$cluster/slurm.conf

head -c 1024 /dev/urandom >"$cluster/munge.key"
chmod 400 "$cluster/munge.key"
munged --foreground --force --key-file "$cluster/munge.key" --socket "$cluster/munge.socket" \
    --pid-file "$cluster/munged.pid" --log-file "$cluster/munged.log" \
    --seed-file "$cluster/munged.seed" >"$cluster/munged.out" 2>&1 &
slurm_pids+=($!)
for _ in $(seq 50); do
    [ -S "$cluster/munge.socket" ] && break
    sleep 0.1
done
slurmctld -D -c >"$cluster/slurmctld.out" 2>&1 &
slurm_pids=($! "${slurm_pids[@]}")
slurmd -D -N "$slurm_host" >"$cluster/slurmd.out" 2>&1 &
slurm_pids=($! "${slurm_pids[@]}")
slurm_is_up=
for _ in $(seq 150); do
    case $(sinfo -h -o %T 2>/dev/null) in idle*) slurm_is_up=1 && break ;; esac
    sleep 0.2
done
[ -n "$slurm_is_up" ] || {
    echo "skipped: Slurm does not start on this machine:"
    tail -n 5 "$cluster"/*.out "$cluster"/*.log
    stop_slurm
    exit 77
}
