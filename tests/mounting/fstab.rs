//! `/etc/fstab` and mount(8), in mount namespaces whose `/sbin` has the helpers, and whose users have homes here.

use super::*;

/// Makes the helpers and the users of this namespace. `trainer` has the number 61300.
const SYSTEM: &str = r#"
mkdir -p real sbin etc root; mount --bind "$(realpath /sbin)" real
for tool in real/*; do ln -s "$PWD/$tool" sbin/; done
ln -sf "$BIN" sbin/mount.fuse.simpletuner-live; ln -sf "$BIN" sbin/umount.fuse.simpletuner-live
mount --bind sbin "$(realpath /sbin)"
install -d -o 61300 -g 61300 -m 700 trainer
sed "s#^root:.*#root:x:0:0:root:$PWD/root:/bin/sh#" /etc/passwd > etc/passwd
echo "trainer:x:61300:61300::$PWD/trainer:/bin/sh" >> etc/passwd
mount --bind etc/passwd /etc/passwd; chmod 755 .
mounts() { grep -c " $PWD/$1 .* fuse.simpletuner-live simpletuner-live " /proc/self/mountinfo; }
as_trainer() { setpriv --reuid 61300 --regid 61300 --clear-groups "$@"; }
"#;

fn with_fstab(home: &Home, script: &str) -> CommandOutput {
    in_namespace(home, &format!("{SYSTEM}{script}"))
}

#[test]
fn mount_a_mounts_what_fstab_names_for_root_and_for_a_user() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    let done = with_fstab(
        &home,
        r#"
install -d theirs; echo 'ttl: 77' > etc/live.yaml
cat > etc/fstab <<FSTAB
simpletuner-live $PWD/mine   fuse.simpletuner-live rw,nosuid,nodev,noexec,_netdev,config=$PWD/etc/live.yaml,x-systemd.requires=network.target 0 0
simpletuner-live $PWD/theirs fuse.simpletuner-live nofail,uid=trainer 0 0
simpletuner-live $PWD/never  fuse.simpletuner-live noauto,uid=61300 0 0
FSTAB
mkdir mine; chown 61300 theirs
AWS_PROFILE=roots HF_TOKEN=roots mount -a -T etc/fstab || exit 9
echo "$(mounts mine) $(mounts theirs) $(mounts never)"
mount -a -T etc/fstab || exit 8
echo "$(mounts mine) $(mounts theirs)"
printf v > mine/secrets/K; as_trainer sh -c 'printf w > theirs/secrets/K; cat theirs/secrets/K; echo; ls theirs/secrets'
cat theirs/secrets/K 2> /dev/null && exit 7
[ -e root/.simpletuner/secrets.json ] && [ -e trainer/.simpletuner/secrets.json ] || exit 6
[ "$(stat -c %u trainer/.simpletuner/secrets.json)" = 61300 ] || exit 5
jq -r '.[].default_ttl' mine/cache/stats | grep -q 77 || exit 4
for part in $(as_trainer jq -r '.server_pid, .keeper_pid' theirs/status); do
    tr '\0' '\n' < /proc/$part/environ | sort | tr '\n' ' '; grep -q 'Uid:.61300.61300.61300.61300' /proc/$part/status || exit 3
    readlink /proc/$part/cwd
done
umount mine && umount theirs || exit 2
echo "$(mounts mine) $(mounts theirs)"
mount -T etc/fstab "$PWD/never" 2>&1; [ "$(mounts never)" = 1 ] || exit 11
stat -c '%u %a' never 2> /dev/null; as_trainer "$BIN" umount "$PWD/never" || exit 12
"#,
    );
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    let path = home.0.path().display();
    let environment = format!(
        "HOME={path}/trainer LOGNAME=trainer PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin USER=trainer /\n"
    );
    assert_eq!(
        done.out,
        format!("1 1 0\n1 1\nw\nK\n{environment}{environment}0 0\n"),
        "{}",
        done.err
    );
}

#[test]
fn mount_t_refuses_what_it_does_not_know_and_leaves_nothing_behind() {
    if !is_root() {
        return;
    }
    let home = Home::new();
    let done = with_fstab(
        &home,
        r#"
mkdir -p live full; touch full/x
for options in uid=nobody_here allow_other gid=5 noexec,frobnicate=1 ro; do
    mount -t fuse.simpletuner-live simpletuner-live live -o $options 2>&1; echo "$options: $?"
done
mount -t fuse.simpletuner-live simpletuner-live full 2>&1; echo "full: $?"
mount -t fuse.simpletuner-live simpletuner-live live -o uid=trainer 2>&1; echo "not theirs: $?"
as_trainer mount.fuse.simpletuner-live x "$PWD/trainer" -o uid=0 2>&1; echo "by trainer: $?"
mount -f -t fuse.simpletuner-live simpletuner-live live; echo "fake: $? $(mounts live)"
mount -s -n -t fuse.simpletuner-live simpletuner-live live -o frobnicate=1; echo "sloppy: $? $(mounts live)"
umount live; echo "umount: $? $(mounts live)"
mount -v -t fuse.simpletuner-live simpletuner-live live; umount.fuse.simpletuner-live "$PWD/live" -l -f -n -v -r; echo "lazy: $? $(mounts live)"
mount.fuse.simpletuner-live 2> /dev/null; echo "usage: $?"; mount.fuse.simpletuner-live --help | head -1
"#,
    );
    let lines: Vec<&str> = done.out.lines().collect();
    let path = home.0.path().display();
    let expected = [
        "error: there is no user nobody_here: uid= takes a name or a number of /etc/passwd",
        "uid=nobody_here: 32",
        "error: the mount option allow_other cannot be used: other users are never let in",
        "allow_other: 1",
        "error: the mount option gid cannot be used: the mount has the group of its user (uid=)",
        "gid=5: 1",
        "error: the mount option frobnicate cannot be used: it is not known; known are uid=, config=, allow_root, and those of mount(8)",
        "noexec,frobnicate=1: 1",
        "error: the mount option ro cannot be used: a mount can always be written to; where its secrets file is read-only, writes to it fail",
        "ro: 1",
        &format!(
            "error: {path}/full is not empty: a mount would hide what is in it; choose an empty folder, or a name that does not exist yet (`simpletuner-live mount {path}/full/live`)"
        ),
        "full: 32",
        &format!(
            "error: {path}/live cannot be a mount point of this user's, who may not write to it; choose a folder of your own, or type: sudo chown trainer {path}/live"
        ),
        "not theirs: 32",
        "error: only root may mount for another user (uid=0)",
        "by trainer: 32",
        "fake: 0 0",
        "sloppy: 0 1",
        "umount: 0 0",
        &format!("{path}/live"),
        "lazy: 0 0",
        "usage: 1",
        "Mounts simpletuner-live for mount(8) and /etc/fstab",
    ];
    assert_eq!(lines, expected, "{}", done.err);
    assert!(
        done.err
            .contains("warning: the mount option frobnicate is not known, and is ignored"),
        "{}",
        done.err
    );
}
