# shellcheck shell=bash
# Sourced by tests that need several hosts: network namespaces with their own address and host name,
# on a bridge that reaches nothing else.  The test begins again in namespaces of its own for
# processes, mounts and network, so that whatever it starts ends with it.
#
# Sets up: on HOST COMMAND... runs a command there; $agent, a program for mpirun's plm_rsh_agent;
# $hosts ("node1 node2 node3"), 10.83.0.1 and so on.  Needs the rights to make namespaces, else 77.

if [ -z "${SLUICE_TEST_INSIDE:-}" ]; then
    for tool in unshare nsenter ip tc; do
        command -v "$tool" >/dev/null || {
            echo "skipped: no $tool (packages util-linux, iproute2)"
            exit 77
        }
    done
    unshare --net --uts --mount --pid --fork true 2>/dev/null || {
        echo "skipped: not allowed to make namespaces (network, host name, mounts, processes)"
        exit 77
    }
    SLUICE_TEST_INSIDE=1 exec unshare --net --mount --pid --fork --kill-child --mount-proc \
        bash "$0" "$@"
fi

hosts="node1 node2 node3"
nets=$(mktemp -d)
ip link set lo up
ip link add bridge0 type bridge || {
    echo "skipped: this kernel has no bridges"
    exit 77
}
ip link set bridge0 up
number=0
: >"$nets/hosts"
for host in $hosts; do
    number=$((number + 1))
    unshare --net --uts sleep 100000 &
    echo $! >"$nets/$host"
    echo "10.83.0.$number $host" >>"$nets/hosts"
done
echo "127.0.0.1 localhost" >>"$nets/hosts"
mount --bind "$nets/hosts" /etc/hosts
on() {
    local host=$1
    shift
    nsenter -t "$(cat "$nets/$host")" --net --uts -- "$@"
}
number=0
for host in $hosts; do
    number=$((number + 1))
    pid=$(cat "$nets/$host")
    # The namespaces are there once they are not ours any more.
    for _ in $(seq 200); do
        [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ] &&
            [ "$(readlink "/proc/$pid/ns/uts")" != "$(readlink /proc/self/ns/uts)" ] && break
        sleep 0.02
    done
    ip link add "port$number" type veth peer name eth0 netns "$pid" || {
        echo "skipped: this kernel has no pairs of virtual interfaces"
        exit 77
    }
    ip link set "port$number" master bridge0 up
    on "$host" hostname "$host"
    on "$host" ip link set lo up
    on "$host" ip addr add "10.83.0.$number/24" dev eth0
    on "$host" ip link set eth0 up
done
agent=$nets/agent
cat >"$agent" <<'AGENT'
#!/bin/sh
# What ssh would do: agent [-x] HOST COMMAND...
while [ "${1#-}" != "$1" ]; do shift; done
host=$1
shift
exec nsenter -t "$(cat "$(dirname "$0")/$host")" --net --uts -- sh -c "$*"
AGENT
chmod +x "$agent"
