#!/bin/bash
# A machine of its own for a test: its root is this machine's, and what it writes there stays in memory (overlayfs). systemd is its
# process 1, with process numbers, mounts, control groups and a network of its own.
#   boot.sh FOLDER    FOLDER is /run/test there. The machine boots once for each of FOLDER/1.sh, 2.sh, ..., and runs that as a service.
# What the scripts print is in FOLDER/said, what systemd logs in FOLDER/log. It exits 77 where the kernel lets no such machine be made.
set -eu
here=$1

case ${2:-} in
"")
    unshare --mount --cgroup --pid --fork true || exit 77
    exec unshare --mount --propagation private bash "$0" "$here" outside
    ;;
outside)
    mkdir "$here/layers" "$here/root" "$here/groups"
    mount -t tmpfs -o mode=755 layers "$here/layers"
    mkdir "$here/layers/upper" "$here/layers/work"
    mount -t overlay -o "lowerdir=/,upperdir=$here/layers/upper,workdir=$here/layers/work" root "$here/root" || exit 77
    mount -t cgroup2 groups "$here/groups" || exit 77
    group=$here/groups/simpletuner-live-test-$$
    mkdir "$group" || exit 77
    end() {
        echo 1 > "$group/cgroup.kill"
        while grep -q 'populated 1' "$group/cgroup.events"; do sleep 0.1; done
        find "$group" -depth -type d -exec rmdir {} \;
    }
    trap end EXIT

    # This machine's own services are none of that one's.
    units=$here/root/etc/systemd
    rm -rf "$units/system" "$units/user" "$here/root/etc/fstab"
    mkdir "$units/system" "$units/user"
    for unit in getty.target remote-fs.target systemd-modules-load.service systemd-sysctl.service; do
        ln -s /dev/null "$units/system/$unit"
    done
    : > "$here/root/etc/machine-id"
    printf '%s\n' '[Unit]' Requires=multi-user.target Wants=test.service > "$units/system/test.target"
    for script in "$here"/[0-9].sh; do
        cat > "$units/system/test.service" << END
[Unit]
After=multi-user.target
SuccessAction=exit
SuccessActionExitStatus=0
FailureAction=exit-force
FailureActionExitStatus=1
[Service]
Type=oneshot
ExecStart=/bin/bash /run/test/$(basename "$script")
StandardOutput=append:/run/test/said
StandardError=inherit
TimeoutStartSec=600
END
        # shellcheck disable=SC2016
        bash -c 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"' - "$group" \
            unshare --cgroup --mount --pid --fork --kill-child --uts --ipc --net bash "$0" "$here" inside
    done
    ;;
inside)
    cd "$here/root"
    mount -t proc -o nosuid,nodev,noexec proc proc
    # The settings of the kernel are this machine's as well.
    mount --bind proc/sys proc/sys
    mount -o remount,bind,ro proc/sys
    mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
    mount -t cgroup2 -o nosuid,nodev,noexec groups sys/fs/cgroup
    mount -t tmpfs -o mode=755,nosuid dev dev
    for device in null zero full random urandom tty fuse; do
        touch "dev/$device"
        mount --bind "/dev/$device" "dev/$device"
    done
    mkdir dev/pts dev/shm
    mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
    for number in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${number%:*}" "dev/${number#*:}"; done
    mount -t tmpfs -o mode=1777,nosuid,nodev shm dev/shm
    mount -t tmpfs -o mode=755,nosuid,nodev run run
    mount -t tmpfs -o mode=1777,nosuid,nodev tmp tmp
    mkdir run/test
    mount --bind "$here" run/test
    hostname machine
    pivot_root . .
    umount -l .
    cd /
    exec setpriv --bounding-set=-sys_module,-sys_time,-sys_boot,-sys_rawio,-syslog \
        env -i container=test PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --unit=test.target --log-target=console --show-status=no < /dev/null >> /run/test/log 2>&1
    ;;
esac
