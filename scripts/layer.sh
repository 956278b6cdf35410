# To be sourced as root in mount, network and PID namespaces of one's own: makes a copy of this machine that goes with them, a layer over
# its file system, below $layer (a directory that is there). `$root` is it afterwards, and `inside COMMAND…` runs there.
# shellcheck shell=sh disable=SC2154
mount -t tmpfs none "$layer"
mkdir "$layer/upper" "$layer/work" "$layer/root"
mount -t overlay none -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" "$layer/root"
root=$layer/root
mount -t proc none "$root/proc"
mount -t sysfs none "$root/sys"
mount -t tmpfs none "$root/run"
ip link set lo up
inside() { chroot "$root" "$@"; }
