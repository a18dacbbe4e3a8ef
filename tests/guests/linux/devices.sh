#!/bin/sh
# Reads and writes every device that the guest has, and says PASS or FAIL for each and how many did at the end:
#
#     devices [-m MIB] [NAME...]
#
# -m is how much goes over each network link, an eighth of it where each segment is a frame of its own, and half of what is written
# to memory that a balloon has given back; a NAME is a device that must be there (others are tried where they are).
# For what only the operator can do a line "ASK WHAT..." asks; it is done within a minute, or it is a failure.
# What is relied on: a writable disk is there to be overwritten, and the last sector of a disk whose serial number starts
# with "image" holds the MD5 of all before it; NICs whose MAC addresses are 52:54:00:00:HH:00 and :01 are on one link.
export PATH=/bin
mib=4
if [ "$1" = -m ]; then
    mib=$2
    shift 2
fi
wanted=" $* "
tried=" "
passed=0
failed=0
exec 3>&1

# Ends a check: the reason why it failed.
die() {
    echo "$*"
    exit 1
}

ask() {
    echo "ASK $*" >&3
}

# NAME FUNCTION ARGUMENTS...: one device.
check() {
    name=$1
    shift
    tried="$tried$name "
    if why=$("$@" 2>&1); then
        echo "PASS $name"
        passed=$((passed + 1))
    else
        echo "FAIL $name" $why
        failed=$((failed + 1))
    fi
}

sum() {
    md5sum | cut -c 1-32
}

forget() {
    sync
    echo 3 > /proc/sys/vm/drop_caches
}

# LINE: how often an interrupt of that name has come to all processors.
interrupts() {
    awk -v line="$1:" -v n="$(nproc)" '$1 == line {for (i = 2; i < n + 2; i++) s += $i} END {print s + 0}' /proc/interrupts
}

# LIMIT CONDITION...: waits for as many seconds until the condition is true.
await() {
    left=$(($1 * 10))
    shift
    until eval "$@"; do
        [ $left -gt 0 ] || return 1
        left=$((left - 1))
        usleep 100000
    done
}

# --- disks ---

# DISK: its last sector holds the checksum of the others.
labelled() {
    want=$(tail -c 512 "/dev/$1" | head -c 32)
    got=$(head -c $((($(cat "/sys/block/$1/size") - 1) * 512)) "/dev/$1" | sum)
    [ "$got" = "$want" ] || die "checksum of /dev/$1 is $got, its label says $want"
}

# DISK: may be read only.
fixed_disk() {
    labelled "$1"
    dd if=/tmp/noise of="/dev/$1" bs=512 count=1 conv=fsync 2> /dev/null && die "a write to it was taken"
    forget
    labelled "$1"
}

# DISK BYTES: what the disk and the noise begin with is the same; the disk is read past the cache.
same() {
    want=$(head -c "$2" /tmp/noise | sum)
    forget
    got=$(dd if="/dev/$1" bs=4096 count=$(($2 / 4096)) iflag=direct 2> /dev/null | sum)
    [ "$got" = "$want" ]
}

# DISK: writes directly and through the cache, in pieces of many sizes, from all processors; discards.
disk() {
    block=/sys/block/$1
    bytes=$(($(cat "$block/size") * 512 / 65536 * 65536))
    [ $bytes -gt 0 ] && [ $bytes -le "$(wc -c < /tmp/noise)" ] || die "its size is $bytes"
    case "$(cat "$block/serial")" in image*) labelled "$1" ;; esac
    for size in 512 4096 65536; do
        dd if=/dev/zero of="/dev/$1" bs=65536 count=$((bytes / 65536)) conv=fsync 2> /dev/null || die "zeros"
        some=$((size * 64))
        [ $some -le $bytes ] || some=$bytes
        dd if=/tmp/noise of="/dev/$1" bs=$size count=$((some / size)) oflag=direct 2> /dev/null || die "direct, $size"
        same "$1" $some || die "direct writes of $size bytes: $got, not $want"
    done
    dd if=/tmp/noise of="/dev/$1" bs=1M count=64 conv=fsync 2> /dev/null
    same "$1" $bytes || die "writes through the cache: $got, not $want"
    # Sectors in the middle, where nothing is aligned: they come back, and their neighbours stay.
    dd if=/tmp/noise of="/dev/$1" bs=512 skip=3 seek=37 count=11 conv=notrunc,fsync 2> /dev/null
    forget
    want=$({ head -c 18944 /tmp/noise; tail -c +1537 /tmp/noise | head -c 5632; tail -c +24577 /tmp/noise; } | head -c $bytes | sum)
    got=$(head -c $bytes "/dev/$1" | sum)
    [ "$got" = "$want" ] || die "sectors in the middle: $got, not $want"
    # Every processor writes its part, so that every queue is used.
    count=$(nproc)
    part=$((bytes / 4096 / count))
    cpu=0
    while [ $cpu -lt "$count" ]; do
        taskset -c $cpu dd if=/tmp/noise of="/dev/$1" bs=4096 skip=$((cpu * part)) seek=$((cpu * part)) count=$part \
            oflag=direct 2> /dev/null &
        cpu=$((cpu + 1))
    done
    wait
    same "$1" $((part * count * 4096)) || die "writes of $count processors: $got, not $want"
    device=$(readlink "$block/device")
    idle=$(grep "${device##*/}-req" /proc/interrupts | awk -v n="$count" '{s = 0; for (i = 2; i < n + 2; i++) s += $i; if (s == 0) c++} END {print c + 0}')
    [ "$idle" = 0 ] || die "$idle queues without an interrupt"
    if [ "$(cat "$block/queue/discard_max_bytes")" != 0 ]; then
        # What is there then is nobody's promise, but it can be written again.
        blkdiscard "/dev/$1" || die "discard"
        dd if=/tmp/noise of="/dev/$1" bs=65536 count=$((bytes / 65536)) oflag=direct 2> /dev/null
        same "$1" $bytes || die "writes after a discard: $got, not $want"
    fi
}

# --- entropy, console, ports, balloon ---

entropy() {
    case "$(cat /sys/class/misc/hw_random/rng_current)" in
    virtio_rng*) ;;
    *) die "the kernel uses another one" ;;
    esac
    first=$(dd if=/dev/hwrng bs=64 count=8 iflag=fullblock 2> /dev/null | tee /tmp/random | sum)
    second=$(dd if=/dev/hwrng bs=64 count=8 iflag=fullblock 2> /dev/null | sum)
    [ "$(wc -c < /tmp/random)" = 512 ] || die "$(wc -c < /tmp/random) bytes of 512"
    [ "$first" != "$second" ] || die "the same bytes twice"
    # Of 512 random bytes some 220 values are met, and with certainty more than 150.
    values=$(od -An -v -tx1 -w1 /tmp/random | sort -u | wc -l)
    [ "$values" -gt 150 ] || die "only $values different bytes of 512"
}

# NAME FILE: answers the line that comes, and says much.
talk() {
    exec 4<> "$2" || die "cannot open $2"
    [ "$1" != console ] || stty raw -echo <&4 || die "no terminal"
    ask say "$1"
    IFS= read -r -t 60 line <&4 || die "nothing came"
    { echo "heard $line" && seq 1 1500; } >&4 || die "cannot write"
    ask hear "$1"
    exec 4<&-
}

memory() {
    sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo
}

balloon() {
    all=$(memory)
    ask balloon 64
    await 60 '[ $(memory) = $((all - 65536)) ]' || die "$all KiB became $(memory)"
    ask balloon 0
    await 60 '[ $(memory) = $all ]' || die "$(memory) KiB came back of $all"
    # The pages that came back are memory again.
    pages=$((mib * 2097152))
    head -c $pages /dev/zero | tr '\0' 'x' > /tmp/pages
    [ "$(tr -d 'x' < /tmp/pages | wc -c)" = 0 ] && [ "$(wc -c < /tmp/pages)" = $pages ] || die "memory lost its content"
    rm /tmp/pages
}

# --- input ---

# The file of the input device of that name.
input() {
    for event in /sys/class/input/event*; do
        [ "$(cat "$event/device/name")" = "$1" ] && echo "/dev/input/${event##*/}"
    done
}

# WHAT FILE EVENTS...: the operator does something, and these events come, as type, code and value in hexadecimal.
events() {
    what=$1
    exec 4< "$2" || die "cannot open $2"
    shift 2
    ask "$what"
    got=$(timeout 60 dd bs=24 count=$# <&4 2> /dev/null | hexdump -v -e '12/2 "%04x " "\n"' | cut -d' ' -f 9-11)
    want=$(for event in "$@"; do echo "$event"; done)
    [ "$got" = "$want" ] || die "$got, not $want"
}

# Of a PS/2 keyboard: a light is switched on, to which the keyboard says two bytes.
ps2() {
    before=$(interrupts 1)
    printf '\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\021\0\001\0\001\0\0\0' > "$1" || die "cannot write"
    usleep 500000
    after=$(interrupts 1)
    [ "$after" -ge $((before + 2)) ] || die "$((after - before)) interrupts"
}

# --- clocks ---

epoch() {
    cat /sys/class/rtc/rtc0/since_epoch
}

rtc() {
    was=$(epoch)
    await 30 '[ $(epoch) != $was ]' || die "it stands still"
    # Another time is set, and is there; and the right one again.
    date -s "2033-05-18 03:33:20" > /dev/null
    hwclock -u -w || die "hwclock -w"
    now=$(epoch)
    [ "$now" -ge 2000000000 ] && [ "$now" -le 2000000010 ] || die "set to 2000000000, it says $now"
    date -s "@$was" > /dev/null
    hwclock -u -w
    rang=$(interrupts 8)
    echo 0 > /sys/class/rtc/rtc0/wakealarm
    echo +2 > /sys/class/rtc/rtc0/wakealarm || die "no alarm can be set"
    await 30 '[ $(interrupts 8) -gt $rang ]' || die "the alarm did not ring"
}

# Hundredths of seconds since the boot, in $up.
uptime_now() {
    read -r up _ < /proc/uptime
    up=${up%.*}${up#*.}
}

# Waits until the RTC's second is over.
next_second() {
    read -r second < /sys/class/rtc/rtc0/time
    now=$second
    while [ "$now" = "$second" ]; do
        read -r now < /sys/class/rtc/rtc0/time
    done
}

# NAME: the kernel keeps time by it, and it goes as fast as the RTC does.
clock() {
    current=/sys/devices/system/clocksource/clocksource0/current_clocksource
    before=$(cat $current)
    echo "$1" > $current
    [ "$(cat $current)" = "$1" ] || die "the kernel does not take it"
    # On a busy machine the end of a second may be seen late; of several attempts one is in time.
    for attempt in 1 2 3 4 5; do
        next_second
        uptime_now
        from=$up
        next_second
        next_second
        uptime_now
        passed=$((up - from))
        [ $passed -ge 170 ] && [ $passed -le 230 ] && break
    done
    uptime_now
    from=$up
    sleep 1
    uptime_now
    slept=$((up - from))
    echo "$before" > $current
    [ $passed -ge 170 ] && [ $passed -le 230 ] || die "2 s by the RTC are $passed hundredths"
    [ $slept -ge 99 ] && [ $slept -le 1000 ] || die "sleep 1 took $slept hundredths"
}

# --- network ---

# MAC: the interface that has it.
interface() {
    for net in /sys/class/net/*; do
        [ "$(cat "$net/address")" = "$1" ] && echo "${net##*/}"
    done
}

# PID COMMAND...: in the network namespace of that process.
inside() {
    pid=$1
    shift
    nsenter -t "$pid" -n "$@"
}

# FROM TO ADDRESS: between two namespaces; what arrives is told by its checksum, which comes back.
copy() {
    to=$2
    inside "$to" nc -l -p 5000 -e md5sum < /dev/null > /dev/null 2>&1 3>&- &
    server=$!
    await 10 'inside $to netstat -ltn | grep -q :5000' || die "no server"
    got=$(inside "$1" timeout 150 nc "$3" 5000 < /tmp/bulk | cut -c 1-32)
    kill $server 2> /dev/null
    wait $server 2> /dev/null
    [ "$got" = "$bulk" ] || die "TCP to $3: the checksum is '$got', not $bulk"
}

# HUB FIRST SECOND: two NICs on one link, each in a namespace of its own.
link() {
    for namespace in 1 2; do
        unshare -n sleep 10000 < /dev/null > /dev/null 2>&1 3>&- &
        eval "ns$namespace=$!"
    done
    for namespace in $ns1 $ns2; do
        await 10 '[ "$(readlink /proc/$namespace/ns/net)" != "$(readlink /proc/self/ns/net)" ]' || die "no namespace"
    done
    traffic "$@"
    result=$?
    kill $ns1 $ns2
    wait
    return $result
}

traffic() (
    one=10.9.$1.1
    two=10.9.$1.2
    mtu=$(cat "/sys/class/net/$2/mtu")
    # Its first feature: checksums and large segments may be left to the other side.
    share=8
    for net in "$2" "$3"; do
        [ "$(head -c 1 "/sys/class/net/$net/device/features")" = 1 ] || share=1
    done
    ip link set "$2" netns $ns1 && ip link set "$3" netns $ns2 || die "no move to a namespace"
    inside $ns1 ip addr add $one/24 dev "$2"
    inside $ns2 ip addr add $two/24 dev "$3"
    inside $ns1 ip link set "$2" up && inside $ns2 ip link set "$3" up || die "cannot be set up"
    for size in 0 56 $((mtu - 28)) 20000; do
        inside $ns1 ping -q -c 3 -i 0.2 -W 10 -s $size $two > /tmp/ping || die "ping of $size bytes:" "$(tail -n 2 /tmp/ping)"
    done
    inside $ns2 ping -q -c 3 -W 10 $one > /tmp/ping || die "ping back:" "$(tail -n 2 /tmp/ping)"
    head -c $((mib * share * 131072)) /dev/urandom > /tmp/bulk
    bulk=$(sum < /tmp/bulk)
    copy $ns1 $ns2 $two
    copy $ns2 $ns1 $one
    # The link goes, and comes back.
    inside $ns2 ip link set "$3" down
    inside $ns1 ping -q -c 1 -W 2 $two > /dev/null && die "an answer through a link that is down"
    inside $ns2 ip link set "$3" up
    inside $ns1 ping -q -c 3 -W 10 $two > /tmp/ping || die "ping after the link was down:" "$(tail -n 2 /tmp/ping)"
    inside $ns1 cat /proc/net/dev | awk -v dev="$2:" '$1 == dev && ($4 || $12) {exit 1}' || die "errors are counted"
)

# What the kernel has said since the start, at warning or worse. Two messages only say that the emulator was slow just then.
complaints() {
    said=$(dmesg -r | sed '1,/devices: start/d' | grep -E '^<[0-4]>' |
        grep -v -e 'hrtimer: interrupt took' -e 'hpet: Lost [0-9]* RTC interrupts')
    [ -z "$said" ] || die "$said"
}

echo '<6>devices: start' > /dev/kmsg
dd if=/dev/urandom of=/tmp/noise bs=1M count=2 2> /dev/null
for block in /sys/block/vd*; do
    [ -e "$block" ] || continue
    disk=${block##*/}
    if [ "$(cat "$block/ro")" = 1 ]; then
        check "blk-$(cat "$block/serial")" fixed_disk "$disk"
    else
        check "blk-$(cat "$block/serial")" disk "$disk"
    fi
done
[ -e /dev/hwrng ] && check rng entropy
[ -e /dev/hvc0 ] && check console talk console /dev/hvc0
for port in /sys/class/virtio-ports/*; do
    name=$(cat "$port/name" 2> /dev/null)
    [ -n "$name" ] && check "port-$name" talk "$name" "/dev/${port##*/}"
done
[ -e /sys/bus/virtio/drivers/virtio_balloon/virtio* ] && check balloon balloon
device=$(input "QEMU Virtio Keyboard")
[ -n "$device" ] && check keyboard events keyboard "$device" "0001 001e 0001" "0000 0000 0000" "0001 001e 0000" \
    "0000 0000 0000"
device=$(input "QEMU Virtio Mouse")
[ -n "$device" ] && check mouse events mouse "$device" "0002 0000 0005" "0002 0001 fffd" "0000 0000 0000"
device=$(input "QEMU Virtio Tablet")
[ -n "$device" ] && check tablet events tablet "$device" "0003 0000 4e20" "0000 0000 0000"
device=$(input "AT Translated Set 2 keyboard")
[ -n "$device" ] && check ps2 ps2 "$device"
[ -e /sys/class/rtc/rtc0 ] && check rtc rtc
for source in $(cat /sys/devices/system/clocksource/clocksource0/available_clocksource); do
    check "clock-$source" clock "$source"
done
for hub in 0 1 2 3 4 5 6 7; do
    first=$(interface 52:54:00:00:0$hub:00)
    second=$(interface 52:54:00:00:0$hub:01)
    [ -n "$first" ] && [ -n "$second" ] || continue
    check "net-$hub" link $hub "$first" "$second"
done
rm -f /tmp/bulk /tmp/noise
check kernel complaints
for name in $wanted; do
    case "$tried" in
    *" $name "*) ;;
    *)
        echo "FAIL $name is not there"
        failed=$((failed + 1))
        ;;
    esac
done
if [ $failed = 0 ]; then echo "ALL $passed PASSED"; else echo "$failed FAILED"; fi
