# The first boot: the package is installed, its services are started as docs/operation.md says, killed in all ways, and upgraded.
. /run/test/common.sh
# The index of all man pages of the machine is not wanted.
rm -f /var/lib/man-db/auto-update

say install
apt-get install -qq -y /run/test/one.deb
not grep -q 'fuse.* simpletuner-live' /proc/self/mountinfo
not [ -e /etc/systemd/system/multi-user.target.wants ]
for user in job trainer worker own; do useradd --create-home --user-group "$user"; done
rm -rf /root/.simpletuner

say a service of the machine
systemctl enable --now simpletuner-live@job
simpletuner-live install-service --system --user trainer /run/trainer/live
systemctl daemon-reload && systemctl enable --now simpletuner-live.service
mkdir /srv/live
simpletuner-live install-service --system --print /srv/live > /etc/systemd/system/roots.service
systemctl enable --now roots

say a service of a user
for user in worker own; do
    loginctl enable-linger "$user"
    until [ -e "/run/user/$(id -u "$user")/systemd/private" ]; do sleep 0.1; done
done
as worker systemctl --user enable --now simpletuner-live
as own simpletuner-live install-service
as own sh -c 'systemctl --user daemon-reload && systemctl --user enable --now simpletuner-live.service'

# `enable --now` returns once the mount answers.
for user in $users own; do
    as "$user" sh -c 'printf value > "$0/secrets/KEY"' "${live[$user]}"
    [ "$(value_of "$user")" = value ]
    is_kept "$user"
done
as own systemctl --user disable --now simpletuner-live
is_ended own

say a service that needs the secrets
as worker sh -c 'cat > ~/.config/systemd/user/needs.service' << 'UNIT'
[Unit]
After=simpletuner-live.service
Requires=simpletuner-live.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'cat ~/.simpletuner/live/secrets/KEY > ~/needed'
UNIT
service worker stop
is_ended worker
as worker systemctl --user daemon-reload
as worker systemctl --user start needs
[ "$(cat /home/worker/needed)" = value ]

start_readers
declare -A device before
# What is done to each mount is done to all of them at once, and then each has recovered.
note() { for user in $users; do before[$user]=$(status "$user" "$1"); done; }
all_changed() {
    for user in $users; do
        until_changed "$user" "$1" "${before[$user]}"
        is_kept "$user"
        [ "$(device_of "$user")" = "${device[$user]}" ]
    done
    readers_read
}
for user in $users; do device[$user]=$(device_of "$user"); done
for process in server_pid keeper_pid; do
    say "each $process is killed"
    note "$process"
    kill -KILL "${before[@]}"
    all_changed "$process"
done
say both processes of each mount are killed
note keeper_pid
for user in $users; do service "$user" kill --signal KILL; done
all_changed keeper_pid
for user in $users; do [ "$(property "$user" NRestarts)" = 1 ]; done
say each server hangs
note server_pid
kill -STOP "${before[@]}"
all_changed server_pid
say each service is reloaded
note server_pid
for user in $users; do
    service "$user" reload
    [ "$(status "$user" server_pid)" != "${before[$user]}" ]
done
all_changed server_pid

say upgrade
note server_pid
for user in $users; do [ "$(program_of "$user")" = "$(stat -c %i /usr/bin/simpletuner-live)" ]; done
apt-get install -qq -y /run/test/two.deb
for user in $users; do
    [ "$(status "$user" server_pid)" != "${before[$user]}" ]
    [ "$(program_of "$user")" = "$(stat -c %i /usr/bin/simpletuner-live)" ]
    [ "$(property "$user" NRestarts)" = 1 ]
done
all_changed server_pid
end_readers
(cd "$reads" && wc -l *)
