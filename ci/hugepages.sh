# Huge pages for DPDK while a script runs. To be sourced; who takes some calls give_back_huge_pages
# in the end.

huge_pages=/proc/sys/vm/nr_hugepages
huge_pages_taken=0
# Less memory than this is not worth the risk of running out of it, in KiB.
huge_pages_spare_kib=$((4 << 20))

# meminfo NAME: a line of /proc/meminfo, without its unit.
meminfo() {
    awk -v name="$1:" '$1 == name { print $2 }' /proc/meminfo
}

# add_huge_pages COUNT: reserves so many more, or gives so many back. Says how many that were. One
# script at a time: otherwise one would undo what another does.
add_huge_pages() {
    (
        flock 9
        before=$(cat "$huge_pages")
        echo $((before + $1 > 0 ? before + $1 : 0)) >"$huge_pages"
        echo $(($(cat "$huge_pages") - before))
    ) 9<"$huge_pages" 2>/dev/null
}

# want_huge_pages COUNT: reserves what is missing to so many free ones. Fails, and keeps none, if the
# system does not give them: there may be none, no right to ask, or too little memory.
want_huge_pages() {
    local missing=$(($1 - $(meminfo HugePages_Free)))
    [ "$missing" -gt 0 ] || return 0
    [ "$(meminfo Hugepagesize)" = 2048 ] || return 1
    [ "$(meminfo MemAvailable)" -ge $((missing * 2048 + huge_pages_spare_kib)) ] || return 1
    huge_pages_taken=$(add_huge_pages "$missing") || true
    if [ "${huge_pages_taken:=0}" -lt "$missing" ]; then
        give_back_huge_pages
        return 1
    fi
}

# give_back_huge_pages: what want_huge_pages took.
give_back_huge_pages() {
    local taken=$huge_pages_taken
    huge_pages_taken=0
    [ "$taken" -le 0 ] || add_huge_pages "-$taken" >/dev/null || true
}
