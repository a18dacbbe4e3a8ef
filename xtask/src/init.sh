#!/bin/sh
# The first program of the Linux guest: a busybox shell on the console, and a power button that works.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
insmod /lib/evdev.ko
insmod /lib/button.ko
if grep -q 0x1af4 /sys/bus/pci/devices/*/vendor; then
    for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk \
        virtio-rng virtio_console virtio_balloon virtio_input failover net_failover virtio_net; do
        insmod "/lib/$module.ko"
    done
fi

# The ACPI power button comes as an input event; the kind of key stands at byte 18 of each 24-byte record.
for event in /sys/class/input/event*; do
    [ "$(cat "$event/device/name" 2>/dev/null)" = "Power Button" ] || continue
    (
        dd bs=24 count=1 if="/dev/input/${event##*/}" of=/dev/null 2>/dev/null
        echo "guest: power button"
        poweroff -f
    ) &
done

echo "guest: Linux $(uname -r), $(nproc) CPU, $(sed -n 's/^MemTotal: *//p' /proc/meminfo)"
echo "guest: ready"
while :; do
    setsid cttyhack sh
done
