# What ci/faults and ci/soak do to processes and links; sourced by both after net_up.

target=${CARGO_TARGET_DIR:-target}/debug
server=10.77.0.1:7400
# Where clients send to: the memory node, or a bad link that leads there.
way=$server
relay=
out=$net_scratch
runs=0
mn=
# What the memory node and its clients have on their command lines to speak in secret.
secrecy=()
# Kilobytes that the memory node's process had when it had answered once, and may get more at most.
mn_data=0
data_growth_max=1024

fail() {
    echo "${0##*/}: $1" >&2
    for file in "$out"/*.err; do
        [ -s "$file" ] && { echo "--- ${file##*/}" >&2; tail -20 "$file" >&2; }
    done
    exit 1
}

start_memory_node() {
    on_in_background 0 "$out/mn" "$target/dmrpc-mn" --bind "$server" --pool-size 64MiB \
        --lease 2s --grace 1s --datagram-size 1472B "${secrecy[@]}"
    mn=$child
    await_ready "$out/mn" 'the memory node'
    # Once it has answered it has all that it ever needs.
    stat_of_memory_node >/dev/null || fail "the memory node does not answer"
    mn_data=$(memory_of "$mn" VmData)
}

# Waits until the program that prints to $1, by name $2, says that it is ready.
await_ready() {
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        grep -q '^ready' "$1" && return
        sleep 0.05
    done
    fail "$2 does not start"
}

# Kilobytes of process $1 of the kind $2 (VmData: what it may write and nobody else sees; VmRSS:
# what is there of all that it maps).
memory_of() {
    sed -n "s/^$2:[[:space:]]*\([0-9]*\) kB/\1/p" "/proc/$1/status"
}

# The memory node's counters and gauges, as JSON; fails if it does not answer.
stat_of_memory_node() {
    on 1 "$target/dmrpc-cn" stat --json --memory-node "$server" "${secrecy[@]}" 2>/dev/null
}

# What the memory node says of itself under the name $1.
gauge() {
    stat_of_memory_node | jq ".$1"
}

# Waits until the memory node says of itself what $2 demands, a condition of jq; $1 waits for it.
await_gauge() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        stat_of_memory_node | jq -e "$2" >/dev/null && return
        sleep 0.1
    done
    fail "$1: never $2"
}

# A bad link on the way to the memory node: a relay with the options given.
start_relay() {
    on_in_background switch "$out/relay" "$target/examples/faults" relay --seed "$((runs + 1))" \
        --listen 10.77.0.254:7400 --to "$server" "$@"
    relay=$child
    await_ready "$out/relay" 'the relay'
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
        --memory-node "$way" --seconds "$span" --seed "$runs" "${secrecy[@]}" "$@"
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

# The memory node lives, within lease and grace it holds nothing, and its process has not grown.
settle() {
    local tries stat data
    for ((tries = 0; tries < 60; tries++)); do
        kill -0 "$mn" 2>/dev/null || fail "$1: the memory node has died"
        stat=$(stat_of_memory_node || true)
        if [ -n "$stat" ] && jq -e '
            .frames_in_use == 0 and .frames_reserved == 0 and .nodes_in_use == 0 and
            .versions_in_use == 0 and .regions_in_use == 0 and .references_in_use == 0 and
            .pins_in_use == 0 and .stages_in_use == 0 and .reclaiming == 0' <<<"$stat" >/dev/null
        then
            data=$(memory_of "$mn" VmData)
            ((data <= mn_data + data_growth_max)) ||
                fail "$1: the memory node's process has grown from $mn_data to $data kB"
            local grown=$((data - mn_data))
            # What it needed to start with, it need not get again.
            ((data >= mn_data)) || mn_data=$data
            jq -c --arg scenario "$1" --arg data "$grown" \
                --arg resident "$(memory_of "$mn" VmRSS)" '{scenario: $scenario,
                app: "memory_node", left: 0, grown_kb: ($data | tonumber),
                resident_kb: ($resident | tonumber), datagrams_received, packets_resent, duplicates, stale, unknown_session, malformed,
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

# A client sleeps past its lease, and then comes what it had sent before: that is refused and changes
# nothing. When it wakes it begins anew.
scenario_stop() {
    start_relay
    start_client 1 12
    local sleeper=$child sleeper_out=$client_out
    await_gauge stop '.references_in_use > 0'
    local expired refused late
    expired=$(gauge leases_expired)
    kill -USR1 "$relay"
    sleep 0.3
    kill -STOP "$sleeper"
    # Its lease expires, and after the grace nothing of it is left.
    await_gauge stop ".leases_expired > $expired and .frames_in_use == 0 and .references_in_use == 0"
    refused=$(gauge unknown_session)
    kill -USR1 "$relay"
    await_gauge stop ".unknown_session > $refused"
    late=$(stat_of_memory_node)
    jq -e '.frames_in_use == 0 and .references_in_use == 0 and .regions_in_use == 0' <<<"$late" \
        >/dev/null || fail "stop: a zombie's packets changed something: $late"
    jq -c --argjson before "$refused" '{scenario: "stop", app: "late_packets",
        refused: (.unknown_session - $before)}' <<<"$late"
    kill -CONT "$sleeper"
    end_client "$sleeper" "$sleeper_out" stop
    jq -e '.sessions >= 2' "$sleeper_out" >/dev/null || fail "stop: the lease did not expire"
    good_links stop held
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

# A service that passes requests on to another, which answers: on hosts 1 and 2. The clients pass
# them references over bad links, and the second is killed and comes back.
scenario_chain() {
    local first=10.77.0.2:7500 second=10.77.0.3:7500
    on_in_background 2 "$out/second" "$target/dmrpc-cn" serve --bind "$second"
    local end=$child
    await_ready "$out/second" 'the second service'
    on_in_background 1 "$out/first" "$target/dmrpc-cn" serve --bind "$first" \
        --forward-to "$second" --answer-size 16KiB
    local front=$child
    await_ready "$out/first" 'the first service'
    on_in_background switch "$out/to-service" "$target/examples/faults" relay --seed 5 \
        --listen 10.77.0.254:7402 --to "$first" --loss 3% --reorder 10% --corrupt 2% --duplicate 5%
    local to_service=$child
    await_ready "$out/to-service" 'the relay to the service'
    start_client 1 6 --service 10.77.0.254:7402
    local client=$child account=$client_out
    sleep 2
    kill -KILL "$end"
    wait "$end" 2>/dev/null || true
    sleep 0.7
    on_in_background 2 "$out/second" "$target/dmrpc-cn" serve --bind "$second"
    end=$child
    end_client "$client" "$account" chain
    jq -e '.passed_on > 0' "$account" >/dev/null || fail "chain: nothing went there and back"
    kill -TERM "$to_service"
    wait "$to_service" || fail "chain: the relay failed"
    tail -1 "$out/to-service" | jq -e '.up.lost + .down.lost > 0' >/dev/null ||
        fail "chain: nothing was lost"
    kill -KILL "$front" "$end"
    wait "$front" "$end" 2>/dev/null || true
}

# Everything at once, with a key and encryption.
scenario_encrypted() {
    local other
    kill -TERM "$mn"
    wait "$mn" || fail "encrypted: the memory node failed"
    head -c 32 /dev/urandom >"$out/key"
    secrecy=(--key-file "$out/key" --encrypt)
    start_memory_node
    on_bad_links encrypted lost duplicated reordered corrupted : \
        delay 3ms 2ms loss 3% reorder 10% duplicate 5% corrupt 2% -- \
        --delay-us 2000 --jitter-us 2000 --loss 3% --reorder 10% --duplicate 5% --corrupt 2%
    settle encrypted
    other=$(on 2 "$target/dmrpc-cn" stat --memory-node "$server" 2>&1) &&
        fail "encrypted: somebody without the key was answered: $other"
    kill -TERM "$mn"
    wait "$mn" || fail "encrypted: the memory node failed"
    secrecy=()
    start_memory_node
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
