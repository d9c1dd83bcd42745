# The second boot: the mounts are there again; they are stopped and started; the package is removed and purged.
. /run/test/common.sh

say boot
for user in $users; do
    until grep -qF " ${live[$user]} " /proc/self/mountinfo; do sleep 0.1; done
    [ "$(value_of "$user")" = value ]
    is_kept "$user"
done

say stop, start, restart
for user in $users; do
    service "$user" stop
    is_ended "$user"
    service "$user" start
    [ "$(value_of "$user")" = value ]
    service "$user" restart
    [ "$(value_of "$user")" = value ]
    is_kept "$user"
done
say umount
for user in $users; do
    as "$user" simpletuner-live umount "${live[$user]}"
    is_ended "$user"
    [ "$(property "$user" Result)" = success ]
    service "$user" start
done

start_readers
say remove
apt-get remove -qq -y simpletuner-live
not [ -e /usr/bin/simpletuner-live ]
declare -A before
for process in server_pid keeper_pid; do
    for user in $users; do before[$user]=$(status "$user" "$process"); done
    kill -KILL "${before[@]}"
    for user in $users; do
        until_changed "$user" "$process" "${before[$user]}"
        is_kept "$user"
    done
done
end_readers
say end
# There is no program to start again.
systemctl kill --signal KILL simpletuner-live@job
until [ "$(property job ActiveState)" = failed ]; do sleep 0.1; done
not value_of job
systemctl reset-failed
for user in $users; do
    umount "${live[$user]}"
    is_ended "$user"
done

say purge
apt-get purge -qq -y simpletuner-live
not systemctl is-enabled simpletuner-live@job
find /usr /etc /var /home /srv -newer /etc/machine-id -path '*simpletuner-live*' -printf 'left: %p\n'
for user in $users; do ls "${home[$user]}/.simpletuner/secrets.json" "${home[$user]}/.simpletuner/credential.key" > /dev/null; done
say done
