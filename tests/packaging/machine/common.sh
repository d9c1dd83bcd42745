# What the scripts of both boots begin with.
set -euE
export LC_ALL=C HOME=/root DEBIAN_FRONTEND=noninteractive PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec 2>&1 3>> /run/test/trace
BASH_XTRACEFD=3 PS4='+ $SECONDS ${BASH_SOURCE##*/}:$LINENO '
set -x
trap 'echo "failed at ${BASH_SOURCE##*/}:$LINENO: $BASH_COMMAND"' ERR

say() { echo "== $* ($SECONDS s)"; }
not() { if "$@"; then return 1; fi; }

# The users, each with a mount that a service keeps: one of the machine, or one of the user's own manager.
users="job trainer root worker"
declare -A home=([root]=/root [job]=/home/job [trainer]=/home/trainer [worker]=/home/worker [own]=/home/own)
declare -A live=([root]=/srv/live [trainer]=/run/trainer/live)
for user in job worker own; do live[$user]=${home[$user]}/.simpletuner/live; done
declare -A service=([job]=simpletuner-live@job [trainer]=simpletuner-live [root]=roots)

# As a user who has logged in.
as() {
    local uid
    uid=$(id -u "$1")
    setpriv --reuid "$uid" --regid "$uid" --clear-groups env -i -C / HOME="${home[$1]}" USER="$1" PATH="$PATH" LC_ALL=C \
        XDG_RUNTIME_DIR="/run/user/$uid" "${@:2}"
}
service() {
    local user=$1
    shift
    if [ -n "${service[$user]:-}" ]; then
        systemctl "$@" "${service[$user]}"
    else
        as "$user" systemctl --user "$@" simpletuner-live
    fi
}
property() { service "$1" show --value --property "$2"; }
status() { as "$1" jq -r ".$2" "${live[$1]}/status"; }
value_of() { as "$1" cat "${live[$1]}/secrets/KEY"; }
device_of() { as "$1" stat -c %d "${live[$1]}/secrets"; }
# The file that the server of this user's mount runs.
program_of() { stat -Lc %i "/proc/$(status "$1" server_pid)/exe"; }
until_changed() { until [ "$(status "$1" "$2")" != "$3" ]; do sleep 0.1; done; }

# The manager knows the process that holds the mount, has the mount's descriptors, and both processes are the service's.
is_kept() {
    local keeper server group
    read -r keeper server <<< "$(status "$1" '|"\(.keeper_pid) \(.server_pid)"')"
    until [ "$(property "$1" MainPID,ActiveState,NFileDescriptorStore | sort | tr '\n' ' ')" = "$(printf '%s\n' 2 active "$keeper" | sort | tr '\n' ' ')" ]; do
        sleep 0.1
    done
    group=/sys/fs/cgroup$(property "$1" ControlGroup)/cgroup.procs
    grep -qx "$keeper" "$group"
    grep -qx "$server" "$group"
}
is_ended() {
    until [ "$(property "$1" ActiveState)" = inactive ]; do sleep 0.1; done
    while grep -qF " ${live[$1]} " /proc/self/mountinfo; do sleep 0.1; done
}

# A reader of each mount, until /run/ended is there. A read that fails, or gives another value, is a line of the log of failures.
reads=/run/reads failures=/run/failures
start_readers() {
    rm -f /run/ended
    mkdir -p "$reads"
    for user in $users; do
        touch "$reads/$user" "$failures"
        as "$user" bash -c 'until [ -e /run/ended ]; do
            value=
            read -r value < "$0" || true
            if [ "$value" = value ]; then echo; else echo "$1: <$value>" >&2; fi
            sleep 0.05
        done' "${live[$user]}/secrets/KEY" "$user" >> "$reads/$user" 2>> "$failures" &
    done
    readers_read
}
# Each reader has read once more since now, and none has failed.
readers_read() {
    local user count
    for user in $users; do
        count=$(wc -l < "$reads/$user")
        until [ "$(wc -l < "$reads/$user")" -gt "$((count + 1))" ]; do
            no_reader_failed
            sleep 0.1
        done
    done
    no_reader_failed
}
no_reader_failed() {
    sed 's/^/a reader failed: /' "$failures"
    not [ -s "$failures" ]
}
end_readers() {
    readers_read
    touch /run/ended
    wait
    no_reader_failed
}
