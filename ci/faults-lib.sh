# What ci/faults and ci/soak do to processes and links; sourced by both after net_up.

target=${CARGO_TARGET_DIR:-target}/debug
server=10.77.0.1:7400
# Where clients send to: the memory node, or a bad link that leads there.
way=$server
relay=
out=$net_scratch
runs=0
mn=

fail() {
    echo "${0##*/}: $1" >&2
    for file in "$out"/*.err; do
        [ -s "$file" ] && { echo "--- ${file##*/}" >&2; tail -20 "$file" >&2; }
    done
    exit 1
}

start_memory_node() {
    on_in_background 0 "$out/mn" "$target/dmrpc-mn" --bind "$server" --pool-size 64MiB \
        --lease 2s --grace 1s --datagram-size 1472B
    mn=$child
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        grep -q '^ready' "$out/mn" && return
        sleep 0.05
    done
    fail "the memory node does not start"
}

# A bad link on the way to the memory node: a relay with the options given.
start_relay() {
    on_in_background switch "$out/relay" "$target/examples/faults" relay --seed "$((runs + 1))" \
        --listen 10.77.0.254:7400 --to "$server" "$@"
    relay=$child
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        grep -q '^ready' "$out/relay" && break
        sleep 0.05
    done
    way=10.77.0.254:7400
}

# Links that do what netem does with the arguments up to `--` where the kernel has it, else what
# the relay does with those after it.
bad_links() {
    local with_netem=()
    while [[ $1 != -- ]]; do
        with_netem+=("$1")
        shift
    done
    shift
    if ((net_has_netem)); then
        netem "${with_netem[@]}"
    else
        start_relay "$@"
    fi
}

# Links are good again. What a relay did is printed, under the name $1; each effect named after it
# must have happened in one direction at least.
good_links() {
    netem
    [ -n "$relay" ] || return 0
    kill -TERM "$relay"
    wait "$relay" || fail "$1: the relay failed"
    relay= way=$server
    local said effect
    said=$(tail -1 "$out/relay")
    jq -c --arg scenario "$1" '{scenario: $scenario} + .' <<<"$said"
    for effect in "${@:2}"; do
        jq -e ".up.$effect + .down.$effect > 0" <<<"$said" >/dev/null || fail "$1: no $effect"
    done
}

# A client on host $1 for $2 seconds; more arguments go to it. `child` is its process.
start_client() {
    local host=$1 span=$2
    shift 2
    runs=$((runs + 1))
    on_in_background "$host" "$out/client.$runs" "$target/examples/faults" client \
        --memory-node "$way" --seconds "$span" --seed "$runs" "$@"
    client_out=$out/client.$runs
}

# Waits for a client and prints its account, under the name $3.
end_client() {
    wait "$1" || fail "$3: a client failed"
    jq -c --arg scenario "$3" '{scenario: $scenario} + .' "$2"
    jq -e '.calls == .done + .refused + .not_executed + .unknown and .wrong == 0 and .done > 0' \
        "$2" >/dev/null || fail "$3: the account of a client is not right"
}

# Two clients at once, for the scenario $1.
traffic() {
    start_client 1 "$seconds"
    local first=$child first_out=$client_out
    start_client 2 "$seconds"
    local second=$child second_out=$client_out
    end_client "$first" "$first_out" "$1"
    end_client "$second" "$second_out" "$1"
}

# The memory node lives, and within lease and grace it holds nothing.
settle() {
    local tries stat
    for ((tries = 0; tries < 60; tries++)); do
        kill -0 "$mn" 2>/dev/null || fail "$1: the memory node has died"
        stat=$(on 1 "$target/dmrpc-cn" stat --json --memory-node "$server" 2>/dev/null || true)
        if [ -n "$stat" ] && jq -e '
            .frames_in_use == 0 and .frames_reserved == 0 and .nodes_in_use == 0 and
            .versions_in_use == 0 and .regions_in_use == 0 and .references_in_use == 0 and
            .pins_in_use == 0 and .stages_in_use == 0 and .reclaiming == 0' <<<"$stat" >/dev/null
        then
            jq -c --arg scenario "$1" '{scenario: $scenario, app: "memory_node", left: 0,
                datagrams_received, packets_resent, duplicates, stale, unknown_session, malformed,
                bad_length, bad_version, bad_checksum, requests_refused, leases_expired}' \
                <<<"$stat"
            return
        fi
        sleep 0.25
    done
    fail "$1: the memory node still holds something: $stat"
}

# Traffic on links of the options given as to bad_links, with the effects named before `:`.
on_bad_links() {
    local name=$1 effects=()
    shift
    while [[ $1 != : ]]; do
        effects+=("$1")
        shift
    done
    shift
    bad_links "$@"
    traffic "$name"
    good_links "$name" "${effects[@]}"
}

scenario_plain() { traffic plain; }
scenario_loss() { on_bad_links loss lost : loss 10% -- --loss 10%; }
scenario_reorder() {
    on_bad_links reorder reordered : delay 2ms reorder 25% 50% -- --delay-us 2000 --reorder 25%
}
scenario_duplicate() { on_bad_links duplicate duplicated : duplicate 20% -- --duplicate 20%; }
scenario_corrupt() { on_bad_links corrupt corrupted : corrupt 5% -- --corrupt 5%; }
scenario_delay() {
    on_bad_links delay left : delay 15ms 10ms distribution normal -- --delay-us 10000 \
        --jitter-us 10000
}
scenario_rate() {
    on_bad_links rate overflowed : rate 20mbit limit 50 -- --rate 20000000 --limit 8
}
scenario_everything() {
    on_bad_links everything lost duplicated reordered corrupted : \
        delay 3ms 2ms loss 3% reorder 10% duplicate 5% corrupt 2% rate 100mbit -- \
        --delay-us 2000 --jitter-us 2000 --loss 3% --reorder 10% --duplicate 5% --corrupt 2% \
        --rate 100000000
}

# What netem does not do: losses in a row, packets of some seconds ago, links that stand still or
# are cut in one direction.
scenario_outages() {
    start_relay --burst-loss 1% --replay 2% --clog-every-ms 1500 --cut-every-ms 1500
    traffic outages
    good_links outages lost replayed cut
}

# A client is killed in the middle of its work.
scenario_kill() {
    local round
    for round in 1 2 3; do
        start_client 1 60
        sleep "0.$((round * 3))"
        kill -KILL "$child"
        wait "$child" 2>/dev/null || true
    done
    traffic kill
}

# A client sleeps past its lease: what it does when it wakes is refused, and it begins anew.
scenario_stop() {
    start_client 1 8
    local sleeper=$child sleeper_out=$client_out
    sleep 1
    kill -STOP "$sleeper"
    sleep 3.5
    kill -CONT "$sleeper"
    end_client "$sleeper" "$sleeper_out" stop
    jq -e '.sessions >= 2' "$sleeper_out" >/dev/null || fail "stop: the lease did not expire"
}

# The memory node is killed and starts again at the same address, empty.
scenario_restart() {
    start_client 1 8
    local client=$child account=$client_out
    sleep 1.5
    kill -KILL "$mn"
    wait "$mn" 2>/dev/null || true
    sleep 0.5
    start_memory_node
    end_client "$client" "$account" restart
    jq -e '.sessions >= 2' "$account" >/dev/null || fail "restart: nobody came back"
}

# Packets of a real client, changed, while another works.
scenario_mutate() {
    start_client 1 2 --pcap "$out/capture.pcap"
    end_client "$child" "$client_out" mutate
    on_in_background 2 "$out/mutate" "$target/examples/faults" mutate --memory-node "$server" \
        --seconds "$seconds" --seed "$runs" --capture "$out/capture.pcap"
    local mutator=$child
    start_client 1 "$seconds"
    end_client "$child" "$client_out" mutate
    wait "$mutator" || fail "mutate: the sender of bad packets failed"
    jq -c '{scenario: "mutate"} + .' "$out/mutate"
    # And those of a live session, each followed by a changed copy that passes for genuine.
    start_relay --mutate 20%
    start_client 2 "$seconds" --hostile
    local hostile=$child hostile_out=$client_out
    way=$server
    start_client 1 "$seconds"
    end_client "$child" "$client_out" mutate
    end_client "$hostile" "$hostile_out" mutate
    good_links mutate mutated
    # What it made in a session of its own goes with its lease.
    sleep 3.5
}

start_memory_node
