# Hosts on this machine: network namespaces joined by a bridge, for ci/faults and ci/soak to source.
#
# `net_up N` makes a memory node's host (number 0, 10.77.0.1) and N clients' (10.77.0.2 and on);
# `on HOST COMMAND...` runs something there (`switch`, 10.77.0.254, is where the links meet); `netem ARGUMENTS...` sets what every link does to
# packets, both ways. Everything goes when the script ends, however it ends.

net_prefix=${NET_PREFIX:-dmrpc$$}
net_hosts=()
net_children=()
net_scratch=

# net_skip WHY: ends the script without a verdict, or fails where DMRPC_TEST_ROOT says that all
# rights are there. ci/test names what was skipped at its end.
net_skip() {
    echo "$0: skipped: $1" >&2
    [ -z "${DMRPC_SKIPPED-}" ] || echo "${0##*/}: $1" >>"$DMRPC_SKIPPED"
    [ -z "${DMRPC_TEST_ROOT-}" ] || exit 1
    exit 0
}

net_require() {
    if [ "$(id -u)" -ne 0 ]; then
        net_skip 'network namespaces need root'
    fi
    for tool in ip tc jq; do
        if ! command -v "$tool" >/dev/null; then
            net_skip "no $tool here (ci/setup installs it)"
        fi
    done
    if ! ip netns add "$net_prefix-try" 2>/dev/null; then
        net_skip 'this kernel makes no network namespaces'
    fi
    # Without netem there is the relay of cn-bin/examples/faults.
    if ip -n "$net_prefix-try" link set lo up &&
        tc -n "$net_prefix-try" qdisc add dev lo root netem loss 1% 2>/dev/null; then
        net_has_netem=1
    else
        net_has_netem=0
        echo "$0: this kernel has no netem: links fail by a relay" >&2
    fi
    ip netns delete "$net_prefix-try"
}

net_down() {
    local child host
    for child in "${net_children[@]}"; do
        # A stopped process does not hear of its end.
        kill -CONT "$child" 2>/dev/null || true
        kill -KILL "$child" 2>/dev/null || true
    done
    for host in "${net_hosts[@]}"; do
        ip netns delete "$net_prefix-$host" 2>/dev/null || true
    done
    [ -z "$net_scratch" ] || rm -rf "$net_scratch"
}

net_up() {
    trap net_down EXIT
    trap 'exit 1' INT TERM HUP
    net_scratch=$(mktemp -d)
    net_hosts=(switch)
    ip netns add "$net_prefix-switch"
    ip -n "$net_prefix-switch" link add bridge type bridge
    ip -n "$net_prefix-switch" link set lo up
    ip -n "$net_prefix-switch" addr add 10.77.0.254/24 dev bridge
    ip -n "$net_prefix-switch" link set bridge up
    local host
    for ((host = 0; host <= $1; host++)); do
        net_hosts+=("$host")
        ip netns add "$net_prefix-$host"
        ip -n "$net_prefix-$host" link add eth0 type veth peer name "port$host" \
            netns "$net_prefix-switch"
        ip -n "$net_prefix-switch" link set "port$host" master bridge up
        ip -n "$net_prefix-$host" link set lo up
        ip -n "$net_prefix-$host" addr add "10.77.0.$((host + 1))/24" dev eth0
        ip -n "$net_prefix-$host" link set eth0 up
        # Checksums in software, or what the wire spoils would pass for whole.
        ip netns exec "$net_prefix-$host" ethtool -K eth0 tx off gso off gro off >/dev/null 2>&1 || true
    done
}

on() {
    local host=$1
    shift
    ip netns exec "$net_prefix-$host" "$@"
}

# Runs something on a host in the background; `child` is its process.
on_in_background() {
    local host=$1 out=$2
    shift 2
    # exec: the process is the program, so that signals reach it.
    (exec ip netns exec "$net_prefix-$host" "$@") >"$out" 2>"$out.err" &
    child=$!
    net_children+=("$child")
}

# What every link does to packets from now on; nothing without arguments.
netem() {
    local host
    ((net_has_netem)) || return 0
    for host in "${net_hosts[@]}"; do
        [ "$host" = switch ] && continue
        tc -n "$net_prefix-$host" qdisc del dev eth0 root 2>/dev/null || true
        tc -n "$net_prefix-switch" qdisc del dev "port$host" root 2>/dev/null || true
        if (($#)); then
            tc -n "$net_prefix-$host" qdisc add dev eth0 root netem "$@"
            tc -n "$net_prefix-switch" qdisc add dev "port$host" root netem "$@"
        fi
    done
}
