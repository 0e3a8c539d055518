# SPDX-License-Identifier: MIT OR Apache-2.0
# shellcheck shell=bash
#
# The tests of RDMA, inside the machine, on the ib_umem that rdma.umem= names.
#
# By Debian's shell and tools: busybox has some of them within its own.
[ -n "${BASH_VERSION:-}" ] || exec /usr/bin/bash "$0"
set -u
export PATH=/usr/sbin:/usr/bin:/bin HOME=/tmp LANG=C.UTF-8

# The value of rdma.NAME on the command line of the kernel, or what follows.
option() {
    value=$(sed -n "s/.*rdma\.$1=\([^ ]*\).*/\1/p" /proc/cmdline)
    echo "${value:-${2:-}}" | tr , ' '
}

failed=0
fail() {
    echo "test: FAILED: $*"
    failed=1
}

pins() {
    echo 1 >/proc/sys/vm/stat_refresh
    awk '/nr_foll_pin_acquired/ { n += $2 } /nr_foll_pin_released/ { n -= $2 } END { print n }' /proc/vmstat
}

# Of programs, those alone that have this in their names; any of them, if it is empty.
only=$(option only)

# ended NAME STATUS OUTPUT: what each program must leave behind.
ended() {
    if [ "$2" = 0 ]; then
        echo "test: ok: $1, at $(cut -d . -f 1 /proc/uptime) s"
    else
        tail -n 60 "$3"
        fail "$1: status $2, at $(cut -d . -f 1 /proc/uptime) s"
    fi
    [ "$(pins)" = 0 ] || fail "$1: $(pins) pages are pinned"
}

# one NAME COMMAND...
one() {
    local name=$1 status=0
    [[ $name = *"$only"* ]] || return 0
    shift
    timeout -k 5 1200 "$@" >/tmp/out 2>&1 || status=$?
    ended "$name" "$status" /tmp/out
}

# Connections of siw with bytes that nothing has read.
unread() {
    awk '$2 ~ /^0100090A:/ && $5 !~ /:00000000$/ { n++ } END { print n + 0 }' /proc/net/tcp
}

# pair NAME SERVER CLIENT: commands, as words.
#
# When siw has accepted a connection, it sends the answer, and is called for what comes from then on only later. What
# comes between waits for more, and a peer that waits as well sends no more. And where the side that accepts is the first
# to send, that may have come before the other side reads the answer, which it refuses then, as more than an answer.
# Neither is a failure of what is tested.
pair() {
    local status left again tries server looks half
    [[ $1 = *"$only"* ]] || return 0
    for tries in 1 2 3; do
        status=0 left=0
        # shellcheck disable=SC2086 # words
        timeout -k 5 700 $2 >/tmp/out 2>&1 &
        server=$!
        sleep 3
        # While both wait: with one of them, its connection goes, and its bytes.
        echo 0 >/tmp/left
        (sleep 290; unread >/tmp/left) &
        looks=$!
        # shellcheck disable=SC2086
        timeout -k 5 300 $3 >/tmp/client 2>&1 || status=$?
        kill $looks
        wait $looks 2>/dev/null
        if [ "$status" != 0 ]; then
            left=$(cat /tmp/left)
            kill $server 2>/dev/null
        else
            # What has served its only client ends, within a minute.
            for ((half = 120; half > 0; half--)); do
                kill -0 $server 2>/dev/null || break
                sleep 0.5
            done
            kill $server 2>/dev/null
        fi
        wait $server || status=$status,$?
        cat /tmp/client >>/tmp/out
        again=
        [ "$left" = 0 ] || again="forgotten what a new connection has sent"
        if [[ $1 = *"$siw" ]] && grep -q 'CONNECT_ERROR, error: -22$' /tmp/client; then
            again="refused an answer that was followed by more"
        fi
        [ -n "$again" ] || break
        echo "test: siw has $again: $1, attempt $tries"
    done
    ended "$1" "$status" /tmp/out
}

# both NAME COMMAND ADDRESS: the server's command, to which the client adds where the server is.
both() {
    pair "$1" "$2" "$2 $3"
}

# Room for more than is sent, in programs that receive: siw ends the connection of a receiver that is slow.
room() {
    [ "$1" != send_bw ] || echo "-r 512"
}

# The addresses of both devices.
rxe=10.8.0.1
siw=10.9.0.1

# Loads them all, and makes two devices.
load() {
    for module in ib_uverbs rdma_ucm rdma_rxe siw; do
        modprobe "$module" || fail "modprobe $module"
    done
    rdma link add rxe0 type rxe netdev rxe || fail "no rxe0"
    rdma link add siw0 type siw netdev siw || fail "no siw0"
}

# Takes all of them out, in use by nothing any more.
unload() {
    rdma link del rxe0
    rdma link del siw0
    modprobe -r rdma_rxe siw rdma_ucm rdma_cm ib_cm iw_cm ib_uverbs ib_uverbs_support ib_umem pinned_sgl ib_core
    ! grep -E '^(i[bw]_|rdma_|siw|pinned_sgl)' /proc/modules || fail "modules are left"
    [ "$(pins)" = 0 ] || fail "$(pins) pages are pinned without a module"
}

edges() {
    for device in rxe0 siw0; do
        one "edges $device" rdma_edges "$device"
        sed 's/^/edge: /' /tmp/out
    done
}

blocks() {
    modprobe calls || fail "modprobe calls"
    one blocks rdma_blocks
    grep '^test: ' /tmp/out
    rmmod calls
}

# The kernel's own umem.c beside ours, in one machine. That module never stays.
differ() {
    local said
    [ "$(option umem)" != c ] || return 0
    said=$(modprobe umem_differ 2>&1)
    dmesg | sed -n 's/.*test: umem: \(.*\)/\1/p' | sed 's/^/test: differ: /'
    [[ $said = *"Resource temporarily unavailable"* ]] || fail "umem_differ: $said"
    [ "$(pins)" = 0 ] || fail "umem_differ: $(pins) pages are pinned"
}

hard() {
    for device in rxe0 siw0; do
        one "hard $device" rdma_hard "$device" $(option hard)
        grep '^test: ' /tmp/out
    done
    if [ "$(option umem)" = lists ]; then
        one "large rxe0" rdma_hard rxe0 large
        grep '^test: ' /tmp/out
    fi
    ! rmmod ib_umem 2>/dev/null || fail "ib_umem is unloaded below its drivers"
    unload
    load
    echo "test: ok: all modules unloaded, and loaded again"
}

# rdma.times=N: so often, where something happens now and then only.
tools() {
    local times
    for ((times = $(option times 1); times > 0; times--)); do
        tools_once
    done
}

tools_once() {
    local device kind test address
    for device in rxe0 siw0; do
        one "ibv_devinfo $device" ibv_devinfo -d $device
    done
    for kind in "rc -c -n 200" "rc -c -s 1048576 -n 20" "rc -c -n 100 -o" "uc -c -n 100" "srq -c -n 100" "ud -n 100"; do
        both "ibv_${kind%% *}_pingpong ${kind#* }" "ibv_${kind%% *}_pingpong -d rxe0 -g 1 ${kind#* }" $rxe
    done
    for address in $rxe $siw; do
        pair "rping $address" "rping -s -a $address -C 50 -v -S 4096" "rping -c -a $address -C 50 -v -V -S 4096"
        pair "rdma_server $address" "rdma_server -s $address" "rdma_client -s $address"
        pair "ucmatose $address" "ucmatose -b $address -C 20" "ucmatose -s $address -C 20"
    done
    for test in write_bw read_bw send_bw write_lat read_lat send_lat; do
        both "ib_$test rxe0" "ib_$test -d rxe0 -x 1 -n 100 -s 65536 -F" $rxe
        both "ib_$test siw0" "ib_$test -d siw0 -R -n 100 -s 65536 -F $(room $test)" $siw
    done
    both "ib_atomic_bw rxe0" "ib_atomic_bw -d rxe0 -x 1 -n 100 -F" $rxe
    both "ib_write_bw rxe0, hugetlb" "ib_write_bw -d rxe0 -x 1 -n 20 -s 4194304 -F --use_hugepages" $rxe
}

# Each file of tests in a process of its own, so that one which hangs or crashes ends no other.
pyverbs() {
    for device in rxe0 siw0; do
        # The GIDs of siw end with zeros, which the tests take for none unless they have a number.
        gid=1
        [ $device = rxe0 ] || gid=0
        for file in $(option files "$(cd /rdma/tests && ls test_*.py | sed 's/\.py$//' | grep -vE 'mlx5|efa|cuda')"); do
            status=0
            timeout -k 5 600 python3.13 -u /rdma/run_pyverbs.py $device $gid "$file" $(option all) >/tmp/out 2>&1 || status=$?
            grep '^test: ' /tmp/out
            ended "pyverbs $device $file" $status /tmp/out
        done
    done
}

# They load and unload the driver of rxe by themselves.
selftests() {
    unload
    for test in /rdma/kernel/rdma/*.sh; do
        cd "${test%/*}"
        modprobe tun
        one "kernel's ${test##*/}" bash "$test"
    done
    cd /
    load
}

measure() {
    modprobe rdma_bytes || fail "modprobe rdma_bytes"
    [ "$(option umem)" != lists ] || modprobe rdma_lookup || fail "modprobe rdma_lookup"
    one measure rdma_measure rxe0 siw0
    sed 's/^/test: measure: /' /tmp/out
    rmmod rdma_bytes
    [ "$(option umem)" != lists ] || rmmod rdma_lookup
}

# MiB a second, of the kernel's C and of the umem of this machine, in turns.
throughput() {
    local umem device address test size count
    for _ in 1 2 3; do
        for umem in c "$(option umem)"; do
            unload
            use "$umem"
            load
            for test in write_bw send_bw read_bw; do
                for size in 4096 65536; do
                    count=$((size == 4096 ? 1000 : 200))
                    for device in "rxe0 -x 1" "siw0 -R"; do
                        address=${device%% *}
                        address=${address%0}
                        : >/tmp/client
                        both "ib_$test ${device%% *}" "ib_$test -d $device -n $count -s $size -F $(room $test)" "${!address}"
                        awk -v size=$size -v what="$umem: ib_$test ${device%% *}, $size bytes" \
                            '$1 == size && NF == 5 { print "test: throughput: " what ": " $4 " MiB/s" }' /tmp/client
                    done
                done
            done
        done
    done
}

# Modules that are preferred to others of their names.
use() {
    rm -rf "/usr/lib/modules/$(uname -r)/updates"
    cp -r "/rdma/$1" "/usr/lib/modules/$(uname -r)/updates"
    depmod -a
}
use "$(option umem c)"
ulimit -l unlimited
mount -t tmpfs tmpfs /run
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
for name in rxe siw; do
    ip link add $name type dummy
    ip addr add "${!name}/24" dev $name
    ip link set $name up
done
load
sed -n 's/^\(ib_umem\|pinned_sgl\) \([0-9]*\) .*/test: \1: \2 bytes/p' /proc/modules
for test in $(option tests edges,blocks,differ,hard,tools,pyverbs,selftests); do
    case $test in
    edges | blocks | differ | hard | tools | pyverbs | selftests | measure | throughput) $test ;;
    *) fail "there is no test $test" ;;
    esac
done
unload
awk '/nr_foll_pin/ { print "test: at the end: " $0 }' /proc/vmstat
exit "$failed"
